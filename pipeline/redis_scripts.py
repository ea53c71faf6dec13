"""The steps that Redis takes as one: each script happens wholly or not at all.

Redis does not undo what a script did before it failed. So every script first looks at all that
could make it fail (another life, another version, a key of another kind), and only then writes.

`base` is what all keys of a replica begin with; where a script makes keys from it, they lie in the
same slot as those that it was given.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct


class Script(Struct, frozen=True):
    """A script and the hash by which a server that has seen it knows it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


#: KEYS about, aggregates…
#: Returns the life, and as MessagePack for each key [field, value, …], or false where it is absent
#: or of another kind. A client reads that a good deal faster than as many replies.
READ = _script("""
local items = {}
for number = 2, #KEYS do
    local found = redis.pcall('HGETALL', KEYS[number])
    items[number - 1] = #found > 0 and found
end
return {redis.call('HGET', KEYS[1], 'life') or '', cmsgpack.pack(items)}
""")

#: KEYS about, place. Returns the life, the version and the state of one partition.
STATE = _script("""
local found = redis.call('HMGET', KEYS[2], 'version', 'state')
return {redis.call('HGET', KEYS[1], 'life') or '', found[1] or '', found[2]}
""")

#: KEYS about, place, journal, partitions, emptied, indexes…, aggregates…
#: ARGV life, version that was seen, new version, partition, floor of the journal,
#: state ('' or '=' and the state), chunk ('' or the chunk), and as MessagePack
#: [[partition of each index], [[index, member, [field, value, …]] of each aggregate]].
#: Returns whether it was stored, and how much is left of older lives.
COMMIT = _script("""
local about, place, journal, partitions, emptied = unpack(KEYS, 1, 5)
local life, seen, version = ARGV[1], ARGV[2], ARGV[3]
local floor = tonumber(ARGV[5])
local numbers, rows = unpack(cmsgpack.unpack(ARGV[8]))

if (redis.call('HGET', about, 'life') or '') ~= life then return {0, 0} end
local stored = redis.call('HGET', place, 'version') or ''
if string.sub(stored, 1, #life + 1) ~= life .. '-' then stored = '' end
if stored ~= seen then return {0, 0} end
redis.call('LLEN', journal)
redis.call('SCARD', partitions)
local left = redis.call('LLEN', emptied)
for number = 1, #numbers do redis.call('ZCARD', KEYS[5 + number]) end

if seen == '' then redis.call('UNLINK', place, journal) end
redis.call('HSET', place, 'version', version)
if ARGV[6] ~= '' then redis.call('HSET', place, 'state', string.sub(ARGV[6], 2)) end
redis.call('SADD', partitions, ARGV[4], unpack(numbers))
for number, row in ipairs(rows) do
    local aggregate, fields = KEYS[5 + #numbers + number], row[3]
    redis.call('UNLINK', aggregate)
    for first = 1, #fields, 1000 do
        redis.call('HSET', aggregate, unpack(fields, first, math.min(first + 999, #fields)))
    end
    redis.call('ZADD', KEYS[5 + row[1]], 0, row[2])
end
if ARGV[7] ~= '' then redis.call('RPUSH', journal, ARGV[7]) end
while true do
    local oldest = redis.call('LINDEX', journal, 0)
    if not oldest then break end
    local finish = tonumber(string.match(oldest, '^%d+ (%d+) ') or '')
    if finish and finish > floor then break end
    redis.call('LPOP', journal)
end
return {1, left}
""")

#: KEYS about, partitions, emptied. ARGV life that was seen, new life, incarnation, base.
#: Returns whether the new life has begun. The aggregates of the old one stay, but nobody takes them
#: for facts any more; their indexes are put aside for EMPTY.
BEGIN = _script("""
local about, partitions, emptied = KEYS[1], KEYS[2], KEYS[3]
local base = ARGV[4]
if (redis.call('HGET', about, 'life') or '') ~= ARGV[1] then return 0 end
local numbers = redis.call('SMEMBERS', partitions)
redis.call('LLEN', emptied)

redis.call('HSET', about, 'life', ARGV[2], 'incarnation', ARGV[3])
for _, number in ipairs(numbers) do
    if redis.call('EXISTS', base .. ':i:' .. number) == 1 then
        local aside = base .. ':emptied:' .. ARGV[2] .. ':' .. number
        redis.call('RENAME', base .. ':i:' .. number, aside)
        redis.call('RPUSH', emptied, aside)
    end
    redis.call('UNLINK', base .. ':p:' .. number, base .. ':j:' .. number)
end
redis.call('UNLINK', partitions)
return 1
""")

#: KEYS about, partitions, emptied, aggregates…. ARGV base, partition, member of each aggregate.
#: Enters into the index of its partition what is in none. What bears no partition that there is, or
#: no meta of this life, is given one; older lives' aggregates that wait for EMPTY are left to it.
#: Returns how many were entered.
ENTER = _script("""
local about, partitions, emptied = unpack(KEYS, 1, 3)
local base, own = ARGV[1], ARGV[2]
local life = redis.call('HGET', about, 'life')
if not life then return 0 end
local numbers, known = redis.call('SMEMBERS', partitions), {}
for _, number in ipairs(numbers) do known[number] = true end
local waits = redis.call('LLEN', emptied) > 0

local function is_entered(member)
    for _, number in ipairs(numbers) do
        if redis.call('ZSCORE', base .. ':i:' .. number, member) then return true end
    end
    return false
end

local entered = 0
for place = 4, #KEYS do
    local aggregate, member = KEYS[place], ARGV[place - 1]
    if redis.call('TYPE', aggregate).ok == 'hash' then
        local meta = redis.call('HGET', aggregate, 'meta') or ''
        local of, number, rest = string.match(meta, '^%["([^"]*)",(%d+),(.*)$')
        local is_own = of == life
        if is_own and not known[number] then
            number = own
            redis.call('HSET', aggregate, 'meta', '["' .. life .. '",' .. own .. ',' .. rest)
        elseif not is_own and not (of and waits) and not is_entered(member) then
            is_own, number = true, own
            redis.call('HSET', aggregate, 'meta', '["' .. life .. '",' .. own .. ',0,{},[]]')
        end
        if is_own and redis.call('ZADD', base .. ':i:' .. number, 0, member) == 1 then
            redis.call('SADD', partitions, number)
            entered = entered + 1
        end
    end
end
return entered
""")

#: KEYS about, emptied. ARGV base, most aggregates to look at.
#: Deletes aggregates of older lives; returns whether something may be left.
EMPTY = _script("""
local about, emptied = KEYS[1], KEYS[2]
local base, limit = ARGV[1], tonumber(ARGV[2])
local aside = redis.call('LINDEX', emptied, 0)
if not aside then return 0 end
local members = {}
if redis.call('TYPE', aside).ok == 'zset' then
    members = redis.call('ZRANGE', aside, 0, limit - 1)
end
local mark = '["' .. (redis.call('HGET', about, 'life') or '') .. '",'
for _, member in ipairs(members) do
    local aggregate = base .. ':a:' .. string.sub(member, 17)
    local meta = redis.pcall('HGET', aggregate, 'meta')
    if type(meta) ~= 'string' or string.sub(meta, 1, #mark) ~= mark then
        redis.call('UNLINK', aggregate)
    end
end
if #members == limit then
    redis.call('ZREMRANGEBYRANK', aside, 0, limit - 1)
else
    redis.call('UNLINK', aside)
    redis.call('LPOP', emptied)
end
return redis.call('LLEN', emptied)
""")
