"""The data plane between the sockets and the models: one ``Exchange`` per request, whatever the protocol."""
