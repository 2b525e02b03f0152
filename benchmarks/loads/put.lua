-- PUTs one body under ever new names. Arguments: the file of the body, the beginning of the paths.
dofile("report.lua")

local body, prefix, count = nil, nil, 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   body, prefix = file:read("*a"), args[2]
   file:close()
end

function request()
   count = count + 1
   return wrk.format("PUT", prefix .. count, nil, body)
end
