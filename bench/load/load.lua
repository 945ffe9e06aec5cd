-- The load of the HTTP claims. Environment: BENCH_CASE = order | plain | echo | hot | cold, BENCH_RUN = a prefix that no other run used.
-- Every order carries a key of its own: run, thread and count make it unique.
local case, run = os.getenv("BENCH_CASE"), os.getenv("BENCH_RUN")
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local count = 0
-- Reads: `hot` asks for a hundred products again and again; `cold` for another one each time, from a place that moves on.
local first = tonumber(os.getenv("BENCH_FIRST") or "0")
local headers = { ["Content-Type"] = "application/json" }

function request()
  count = count + 1
  if case == "echo" then
    return wrk.format("POST", "/echo", headers, '{"sku":"SKU-000123","quantity":3,"note":"please gift wrap"}')
  end
  if case == "hot" then
    return wrk.format("GET", "/products/" .. count % 100 + 1)
  end
  if case == "cold" then
    return wrk.format("GET", "/products/" .. (first + count) % 400000 + 1)
  end
  if case == "order" then
    headers["Idempotency-Key"] = string.format("%s-%d-%d", run, number, count)
  end
  -- 7919 is prime to 10,000: every product gets its turn, neighbours never meet.
  local body = string.format('{"user_id":%d,"sku":%d,"quantity":1}', count % 1000 + 1, (count * 7919) % 10000 + 1)
  return wrk.format("POST", case == "plain" and "/plain" or "/orders", headers, body)
end

-- One line for the runner; wrk's own summary rounds too much.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"bad_status":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
