"""What Redis does in one step. Each script is atomic, so that two transformers never decide about a camera at once.

A camera is a hash:

====  =====================================================================================================
s     stamp of its last frame. Stamps are Redis's time in microseconds; those of a camera only rise
n     stamp of its newest inferred frame, the generation of its record
g     stamp of the frame whose answer was given last
h     hits in a row from that record
t     what audits say of it, sealed (``codec``)
====  =====================================================================================================

Its record, sealed, is a string of its own: it is a hundred times as large, and of no use soon after the camera's last
frame. An answer to some bytes is a string, too. All of them expire by themselves. A camera that is no such hash,
whoever made it so, is begun anew.

Stamps are passed as text: Lua would print such numbers in exponents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from saccade_transformers.cache.shared.codec import MOST_TRUST_BYTES


@dataclass(frozen=True, slots=True)
class Script:
    """A script.

    Attributes:
        text: in Lua.
        sha: by which Redis knows it once it has run.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


#: A clock that is set back by more than this makes a camera anew: its stamps would say nothing of time for so long.
MOST_BACK_US: Final = 1_000_000

#: ``time()``: microseconds. ``camera(key, record, now)``: s, g, n, h, t as text, empty where unknown, and whether it
#: had to be begun anew: since it is no such hash, or from a time to come.
_COMMON: Final = f"""
local function time()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
local function camera(key, record, now)
  local kind = redis.call('TYPE', key).ok
  local found = {{'', '', '', '', ''}}
  local good = kind == 'none' or kind == 'hash'
  if kind == 'hash' then
    found = redis.call('HMGET', key, 's', 'g', 'n', 'h', 't')
    for i = 1, 5 do
      found[i] = found[i] or ''
      if i < 5 and not (found[i] == '' or (#found[i] <= 16 and string.match(found[i], '^%d+$'))) then good = false end
    end
    for i = 1, 3 do
      if good and found[i] ~= '' and tonumber(found[i]) - now > {MOST_BACK_US} then good = false end
    end
    if #found[5] > {MOST_TRUST_BYTES} then good = false end
  end
  if good then return found, false end
  redis.call('DEL', key, record)
  return {{'', '', '', '', ''}}, true
end
local function text(stamp)
  return string.format('%.0f', stamp)
end
"""

#: KEYS: answer, camera, record. ARGV: whether the answer is wanted ("1"), whether there is a camera ("1"), the
#: generation that the caller has ("" for none), the largest answer and record in bytes, milliseconds until camera and
#: record are forgotten.
#: Returns: stamp, what was known of the camera before (s, g, n, h, t), the record unless the caller has it, the
#: answer, how many values were too large or no strings (they are deleted), whether the camera was begun anew.
ARRIVE: Final = Script(f"""{_COMMON}
local stamp = time()
local bad = 0
local function get(key, most)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return '' end
  if kind == 'string' and redis.call('STRLEN', key) <= tonumber(most) then return redis.call('GET', key) end
  redis.call('DEL', key)
  bad = bad + 1
  return ''
end
local before, anew = {{'', '', '', '', ''}}, false
local record = ''
if ARGV[2] == '1' then
  before, anew = camera(KEYS[2], KEYS[3], stamp)
  if before[1] ~= '' and stamp <= tonumber(before[1]) then stamp = tonumber(before[1]) + 1 end
  redis.call('HSET', KEYS[2], 's', text(stamp))  -- the first write: fails where memory is full
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
  if before[3] ~= '' and before[3] ~= ARGV[3] then record = get(KEYS[3], ARGV[5]) end
  redis.call('PEXPIRE', KEYS[3], ARGV[7])
end
local answer = ''
if ARGV[1] == '1' then answer = get(KEYS[1], ARGV[4]) end
return {{text(stamp), before, record, answer, bad, anew and 1 or 0}}
""")

#: KEYS: camera, record. ARGV: stamp of the answer, the generation it is of ("" unless a near hit).
#: Returns 1: it is given; 0: something later was given, or the camera is not known any more.
GIVE: Final = Script(f"""{_COMMON}
local known = camera(KEYS[1], KEYS[2], time())
if known[1] == '' or (known[2] ~= '' and tonumber(known[2]) > tonumber(ARGV[1])) then return 0 end
redis.call('HSET', KEYS[1], 'g', ARGV[1])
if ARGV[2] ~= '' and known[3] == ARGV[2] then redis.call('HINCRBY', KEYS[1], 'h', 1) end
return 1
""")

#: KEYS: answer, camera, record. ARGV: the sealed answer ("" for none), milliseconds that it holds, the camera's record
#: ("" for none: then only an older one is forgotten), its stamp ("" without a camera), milliseconds until camera and
#: record are forgotten, whether the answer is given to the camera now ("1").
#: Returns 1: the record is the camera's newest (or there is no camera); 0: a later one is there, or it is of a time to
#: come.
KEEP: Final = Script(f"""{_COMMON}
if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
if ARGV[4] == '' then return 1 end
local stamp, now = tonumber(ARGV[4]), time()
if stamp - now > {MOST_BACK_US} then return 0 end
local known = camera(KEYS[2], KEYS[3], now)
local function later(value) return value ~= '' and tonumber(value) > stamp end
if not later(known[1]) then redis.call('HSET', KEYS[2], 's', ARGV[4]) end
if ARGV[7] == '1' and not later(known[2]) then redis.call('HSET', KEYS[2], 'g', ARGV[4]) end
local newest = not later(known[3])
if newest and ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], 'n', ARGV[4], 'h', 0)
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[6])
elseif newest and known[3] ~= ARGV[4] then
  redis.call('HDEL', KEYS[2], 'n')
  redis.call('DEL', KEYS[3])
end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return newest and 1 or 0
""")

#: KEYS: camera, record. ARGV: what audits said of it as far as the caller knows, what they say now; both sealed, ""
#: for nothing.
#: Returns "": it is told now; else what somebody else has told meanwhile, sealed.
TELL: Final = Script(f"""{_COMMON}
local known = camera(KEYS[1], KEYS[2], time())
if known[5] ~= ARGV[1] then return known[5] == '' and ' ' or known[5] end
if known[1] ~= '' then redis.call('HSET', KEYS[1], 't', ARGV[2]) end
return ''
""")

#: KEYS: one that is written, and others. Does what the others do: a server that is full, read-only, refuses scripts or
#: keys of which each may be at another one (a cluster) does not pass.
PROBE: Final = Script("""
redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', 1000)
return 1
""")

#: All of them.
SCRIPTS: Final = (ARRIVE, GIVE, KEEP, TELL, PROBE)
