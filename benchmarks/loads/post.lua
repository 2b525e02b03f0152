-- POSTs one body again and again. Arguments: the file of the body.
dofile("report.lua")

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   wrk.headers["Content-Type"] = "application/octet-stream"
   file:close()
end
