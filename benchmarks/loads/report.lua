-- Prints what a run of wrk came to, as one line of JSON; times in microseconds.
function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'report {"requests": %d, "duration": %d, "p50": %f, "p99": %f, "errors": ' ..
      '{"status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
