-- GETs one of many paths, chosen evenly. Arguments: a file with a path on each line, and the
-- range to ask for, empty for the whole.
dofile("report.lua")

local requests = {}

function init(args)
   math.randomseed(os.time())
   local headers = {}
   if args[2] ~= "" then
      headers["Range"] = args[2]
   end
   for path in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("GET", path, headers)
   end
end

function request()
   return requests[math.random(#requests)]
end
