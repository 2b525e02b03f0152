-- GETs one of many paths, chosen evenly. Arguments: a file with a path on each line.
dofile("report.lua")

local requests = {}

function init(args)
   math.randomseed(os.time())
   for path in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("GET", path)
   end
end

function request()
   return requests[math.random(#requests)]
end
