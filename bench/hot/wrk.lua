-- What wrk sends, and how much should come back for it.
--
-- Arguments: a file with the head, after the request line; a file with a line "LENGTH PATH" for
-- each request in turn, where LENGTH is that of the whole answer; how many to send at once.
-- A callback for each answer would make wrk slow, so the sum of what is due is kept here, and
-- compared with the sum of what came. Status codes above 399 are counted by wrk itself.

local ID = "%ID%"
local threads = {}
due, sent = 0, 0 -- globals: `done` runs in another state, which can read only these

function setup(thread)
   table.insert(threads, thread)
end

local function read(name)
   local file = assert(io.open(name, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

local function split(text)
   local parts, from = {}, 1
   while true do
      local first, last = text:find(ID, from, true)
      if not first then
         parts[#parts + 1] = text:sub(from)
         return parts
      end
      parts[#parts + 1] = text:sub(from, first - 1)
      from = last + 1
   end
end

function init(args)
   local head, depth = split(read(args[1])), tonumber(args[3])
   local lines, lengths, count = {}, {}, 0
   for length, path in read(args[2]):gmatch("(%d+) (%S+)\n") do
      count = count + 1
      lengths[count] = tonumber(length)
      lines[count] = "GET " .. path .. " HTTP/1.1\r\n" .. head[1]
   end
   if #head == 1 and count == 1 then
      local one = string.rep(lines[1], depth)
      if depth == 1 then -- always the same: wrk need not ask
         wrk.format = function() return one end
      else
         request = function()
            sent, due = sent + depth, due + depth * lengths[1]
            return one
         end
      end
      return
   end
   assert(#head == 3 and depth == 1)
   local middle, tail, at = head[2], head[3], 0
   local id = math.random(0x10000000, 0x7fffffff)
   function request()
      at = at % count + 1
      id = id + 1
      sent, due = sent + 1, due + lengths[at]
      return lines[at] .. id .. middle .. id .. tail
   end
end

function done(summary, latency, requests)
   local all, owed = 0, 0
   for _, thread in ipairs(threads) do
      all, owed = all + thread:get("sent"), owed + thread:get("due")
   end
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "bytes": %.0f, "seconds": %.6f, "sent": %d, "due": %.0f, '
      .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.bytes, summary.duration / 1e6, all, owed,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
