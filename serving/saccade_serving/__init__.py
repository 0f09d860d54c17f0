"""What both Saccade services stand on: protocol codecs, the server, errors, settings, telemetry, a client.

Importing this package loads neither kserve nor tritonclient (their protobuf definitions cannot live in one
process); only what serves does: ``saccade_serving.server``, ``.application``, ``.listener`` and ``.model``.
"""

__version__ = "0.1.0"
