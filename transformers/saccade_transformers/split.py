"""Splits keys between two variants: stable for each key, and in the share that is asked for.

Pure. A key's point in [0, 1) is a hash of it and a salt, and the candidate has the keys whose point is below its
share. So a larger share only moves keys from the stable variant to the candidate, a smaller one only back, and nothing
has to be remembered of any key. Another salt, for another experiment, deals all keys anew.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

#: Bits of a hash that a float carries exactly.
_POINT_BITS: Final = 53


class Placed(NamedTuple):
    """Where a key falls.

    Attributes:
        point: in [0, 1), uniform over keys.
        digest: 16 hexadecimal digits that stand for the key in records. Who knows the salt can try out names, so this
            keeps names out of a file, not secrets.
    """

    point: float
    digest: str


def place(key: str, salt: str) -> Placed:
    """Hash a key: BLAKE2b (RFC 7693) of 8 bytes over salt and key, of which the point has the upper 53 bits.

    Args:
        key: any text that UTF-8 can carry.
        salt: the experiment's name, without NUL, so that no salt and key run together.
    """
    digest = hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    return Placed((int.from_bytes(digest) >> (64 - _POINT_BITS)) / 2**_POINT_BITS, digest.hex())


def salt_digest(salt: str) -> str:
    """8 hexadecimal digits that stand for a salt in records: other ones, another experiment."""
    return hashlib.blake2b(salt.encode(), digest_size=4, person=b"salt").hexdigest()


def is_candidates(point: float, candidate_share: float) -> bool:
    """Whether the candidate has a point; of 0 it has none, of 1 all.

    Args:
        point: in [0, 1): a key's, or a random one for a request without a key.
        candidate_share: 0 to 1.
    """
    return point < candidate_share
