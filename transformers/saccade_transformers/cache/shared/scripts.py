"""What Redis does in one step. Each script is atomic, so that two transformers never decide about a camera at once.

A camera is a hash:

====  =====================================================================================================
s     stamp of its last frame. Stamps are Redis's time in microseconds; those of a camera only rise
n     stamp of its newest inferred frame, the generation of its record
g     stamp of the frame whose answer was given last
h     hits in a row from that record
x     noise of the camera, grey levels
a     last audits, agreement by agreement, with spaces
f     pauses that audits have earned it, a factor; u: stamp until which it has no near hits
====  =====================================================================================================

Its record, sealed (``codec``), is a string of its own: it is a hundred times as large, and of no use soon after the
camera's last frame. An answer to some bytes is a string, too. All of them expire by themselves.

Stamps are passed as text: Lua would print such numbers in exponents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final


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

#: KEYS: answer, camera, record. ARGV: whether the answer is wanted ("1"), whether there is a camera ("1"), the
#: generation that the caller has ("" for none), the largest value in bytes, milliseconds until camera and record are
#: forgotten.
#: Returns: stamp, what was known of the camera before (s, g, n, h, x, u; empty where unknown), the record unless the
#: caller has it, the answer, how many values were too large. Values that are too large are deleted.
ARRIVE: Final = Script(f"""
local now = redis.call('TIME')
local stamp = now[1] * 1000000 + now[2]
local large = 0
local function get(key)
  local size = redis.call('STRLEN', key)
  if size == 0 then return '' end
  if size <= tonumber(ARGV[4]) then return redis.call('GET', key) end
  redis.call('DEL', key)
  large = large + 1
  return ''
end
local answer = ''
if ARGV[1] == '1' then answer = get(KEYS[1]) end
local before = {{false, false, false, false, false, false}}
local record = ''
if ARGV[2] == '1' then
  before = redis.call('HMGET', KEYS[2], 's', 'g', 'n', 'h', 'x', 'u')
  local last = tonumber(before[1])
  if last and last - stamp > {MOST_BACK_US} then
    redis.call('DEL', KEYS[2], KEYS[3])
    before = {{false, false, false, false, false, false}}
  elseif last and stamp <= last then
    stamp = last + 1
  end
  if before[3] and before[3] ~= ARGV[3] then record = get(KEYS[3]) end
  redis.call('HSET', KEYS[2], 's', string.format('%.0f', stamp))  -- the first write: fails where memory is full
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
for i = 1, 6 do before[i] = before[i] or '' end
return {{string.format('%.0f', stamp), before, record, answer, large}}
""")

#: KEYS: camera. ARGV: stamp of the answer, the generation it is of ("" unless a near hit), noise.
#: Returns 1: it is given; 0: something later was given, or the camera is not known any more.
GIVE: Final = Script("""
local given = redis.call('HMGET', KEYS[1], 's', 'g', 'n')
if not given[1] or (given[2] and tonumber(given[2]) > tonumber(ARGV[1])) then return 0 end
redis.call('HSET', KEYS[1], 'g', ARGV[1])
if ARGV[2] ~= '' and given[3] == ARGV[2] then
  redis.call('HINCRBY', KEYS[1], 'h', 1)
  redis.call('HSET', KEYS[1], 'x', ARGV[3])
end
return 1
""")

#: KEYS: answer, camera, record. ARGV: the sealed answer ("" for none), milliseconds that it holds, the camera's record
#: ("" for none), its stamp ("" without a camera), noise, milliseconds until camera and record are forgotten, whether
#: the answer is given to the camera now ("1").
#: Returns 1: the record is the camera's newest (or there is no camera); 0: a later one is there.
KEEP: Final = Script("""
if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
if ARGV[4] == '' then return 1 end
local stamp = tonumber(ARGV[4])
local known = redis.call('HMGET', KEYS[2], 's', 'g', 'n')
if not known[1] or tonumber(known[1]) < stamp then redis.call('HSET', KEYS[2], 's', ARGV[4]) end
if ARGV[8] == '1' and (not known[2] or tonumber(known[2]) < stamp) then redis.call('HSET', KEYS[2], 'g', ARGV[4]) end
local newest = not known[3] or tonumber(known[3]) <= stamp
if newest then
  if ARGV[3] ~= '' then
    redis.call('HSET', KEYS[2], 'n', ARGV[4], 'h', 0, 'x', ARGV[5])
    redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[7])
  else
    redis.call('HDEL', KEYS[2], 'n')
    redis.call('DEL', KEYS[3])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return newest and 1 or 0
""")

#: KEYS: camera. Returns a, f, u; empty where unknown.
AUDITS: Final = Script("""
local told = redis.call('HMGET', KEYS[1], 'a', 'f', 'u')
for i = 1, 3 do told[i] = told[i] or '' end
return told
""")

#: KEYS: camera. ARGV: a, f, u. Returns 1, or 0 where the camera is not known any more.
TELL: Final = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'a', ARGV[1], 'f', ARGV[2], 'u', ARGV[3])
return 1
""")

#: KEYS: any. Does what the others do: a server that is full, read-only or refuses scripts does not pass.
PROBE: Final = Script("""
redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', 1000)
return 1
""")
