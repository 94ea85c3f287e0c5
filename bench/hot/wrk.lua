-- What wrk sends, and how much should come back for it.
--
-- Arguments: a file with the request; a file with a line "LENGTH PATH RANGE" for each request in
-- turn, where LENGTH is that of the whole answer, and PATH and RANGE are filled in; how many to
-- send at once. A callback for each answer would make wrk slow, so the sum of what is due is kept
-- here, and compared with the sum of what came. Status codes above 399 are counted by wrk itself.

local FILLED = {["%PATH%"] = "path", ["%RANGE%"] = "range", ["%ID%"] = "id"}
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

-- The request as a function of what is filled in: one concatenation, since it is made each time.
local function compile(template)
   local texts, names, terms, from = {}, {}, {}, 1
   local function text(to)
      texts[#texts + 1] = template:sub(from, to)
      names[#names + 1] = "text" .. #texts
      terms[#terms + 1] = names[#names]
   end
   for at, name, after in template:gmatch("()(%%%u+%%)()") do
      text(at - 1)
      terms[#terms + 1] = assert(FILLED[name], name)
      from = after
   end
   text(#template)
   local source = "local " .. table.concat(names, ", ") .. " = ...\n"
      .. "return function(path, range, id) return " .. table.concat(terms, " .. ") .. " end"
   return assert(loadstring(source))(unpack(texts))
end

function init(args)
   local template, depth = read(args[1]), tonumber(args[3])
   local fill, changes = compile(template), template:find("%ID%", 1, true)
   local lengths, paths, ranges, count = {}, {}, {}, 0
   for length, path, range in read(args[2]):gmatch("(%d+) (%S+) (%S+)\n") do
      count = count + 1
      lengths[count], paths[count], ranges[count] = tonumber(length), path, range
   end
   if count == 1 and not changes then
      local one = string.rep(fill(paths[1], ranges[1]), depth)
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
   assert(depth == 1)
   local at, id = 0, math.random(0x10000000, 0x7fffffff)
   function request()
      at = at % count + 1
      id = id + 1
      sent, due = sent + 1, due + lengths[at]
      return fill(paths[at], ranges[at], id)
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
