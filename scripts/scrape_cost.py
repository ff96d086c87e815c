#!/usr/bin/env python3
"""What scraping costs: one Evenkeel scrapes many backends every second, with no other work; its processor time is read from
/proc, and that of the same balancer without scraping taken off.

    scripts/scrape_cost.py target/quick/evenkeel [--backends 500] [--seconds 20] [--page-kib 4]

The backends are addresses of 127.0.0.0/8 behind one small server, which serves a page of vLLM's metrics of that size.
"""

import argparse
import asyncio
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("binary")
parser.add_argument("--backends", type=int, default=500)
parser.add_argument("--seconds", type=float, default=20)
parser.add_argument("--page-kib", type=float, default=4)
parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
arguments = parser.parse_args()


def page():
    """vLLM's signals amid histograms, as long as asked for."""
    label = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
    lines = [f"vllm:num_requests_running{{{label}}} 3.0", f"vllm:num_requests_waiting{{{label}}} 1.0"]
    lines += [f"vllm:kv_cache_usage_perc{{{label}}} 0.42", f"vllm:iteration_tokens_total_count{{{label}}} 700.0"]
    number = 0
    while sum(map(len, lines)) + len(lines) < arguments.page_kib * 1024:
        number += 1
        lines.append(f'vllm:e2e_request_latency_seconds_bucket{{{label},le="{number}"}} {number}.0')
    return ("\n".join(lines) + "\n").encode()


async def serve():
    body = page()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def client(reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "0.0.0.0", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port, folder, scrape):
    backends = "".join(
        f'[[pools.ai.backends]]\nname = "b{n}"\naddress = "127.1.{n // 250}.{n % 250 + 1}:{port}"\n'
        for n in range(arguments.backends)
    )
    resources = '[pools.ai.resources]\nscrape = { interval = "1s" }\n' if scrape else ""
    config = pathlib.Path(folder) / "evenkeel.toml"
    config.write_text(
        '[server]\nthreads = 1\n[[listeners]]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"\n'
        '[pools.ai]\nstrategy = "resource_based"\nengine = "vllm"\n[pools.ai.health]\nkind = "none"\n'
        + resources + backends
    )
    process = subprocess.Popen([arguments.binary, "run", "-c", config], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    admin = None
    while admin is None:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("evenkeel did not start")
        admin = line.split()[-1] if "admin" in line else None
    time.sleep(3)  # connections are made, the first rates are there
    before, began = cpu_seconds(process.pid), time.monotonic()
    time.sleep(arguments.seconds)
    share = (cpu_seconds(process.pid) - before) / (time.monotonic() - began)
    metrics = urllib.request.urlopen(f"http://{admin}/metrics").read().decode().splitlines()
    known = sum(line.startswith('evenkeel_resource_use_ratio') for line in metrics)
    taken = sum(float(line.rsplit(" ", 1)[1]) for line in metrics if line.startswith("evenkeel_resource_samples_total") and 'result="ok"' in line)
    failed = sum(float(line.rsplit(" ", 1)[1]) for line in metrics if line.startswith("evenkeel_resource_samples_total") and 'result="failed"' in line)
    process.terminate()
    process.wait()
    return share, known, taken, failed


if arguments.serve:
    asyncio.run(serve())
else:
    server = subprocess.Popen([os.sys.executable, __file__, "--serve", "--page-kib", str(arguments.page_kib), ""], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            idle, *_ = measure(port, folder, False)
            busy, known, taken, failed = measure(port, folder, True)
    finally:
        server.kill()
    print(f"{arguments.backends} backends every second, pages of {arguments.page_kib} KiB: "
          f"{(busy - idle) * 100:.2f} % of one core ({busy * 100:.2f} % less {idle * 100:.2f} % without scraping); "
          f"{known} known, {taken:.0f} samples, {failed:.0f} failures")
