"""What scripts/bench and scripts/callgrind share: the proxies, their configurations and the backend behind them.

All run on loopback, in a temporary directory, on ports that the kernel had free. The backend is one nginx process that
listens on as many ports as there are backends, so that its cost is the same whoever asks.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = 6  # a handful, as in the product's own setting

BACKEND_CONF = """
daemon off; master_process {master}; worker_processes 1; pid {dir}/pid; error_log stderr crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off; server_tokens off; {temp}
    keepalive_timeout 300s; keepalive_requests 1000000000; tcp_nodelay on;
    open_file_cache max=100; open_file_cache_valid 1h;
    types {{ }} default_type application/json;
    etag off; max_ranges 0; add_header Last-Modified "";  # five headers, about as many as a model server sends
    server {{ {listen} root {dir}/files; location = /health {{ return 200 "ok"; }} }}
}}
"""

NGINX_CONF = """
daemon off; master_process {master}; worker_processes 1; pid {dir}/pid; error_log stderr crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off; server_tokens off; {temp}
    keepalive_timeout 300s; keepalive_requests 1000000000; tcp_nodelay on;
    proxy_buffer_size 32k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
    upstream pool {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} {protocol} reuseport backlog=4096;
        {tls}
        location / {{ proxy_pass http://pool; proxy_http_version 1.1; proxy_set_header Connection ""; }}
        {apart}
    }}
}}
"""

HAPROXY_CFG = """
global
    maxconn 8000
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    http-reuse always
frontend f
    bind 127.0.0.1:{port} backlog 4096
{tls}
    default_backend b
{apart}
backend b
    balance roundrobin
{servers}
"""

# Metrics on (the admin server is there), access log off, one worker, nothing else but defaults.
EVENKEEL_TOML = """
[server]
threads = 1
[log]
level = "warn"
[access_log]
format = "off"
[admin]
address = "127.0.0.1:{admin}"
[[listeners]]
address = "127.0.0.1:{port}"
{tls}
[pools.bench]
strategy = "{strategy}"
{servers}
[pools.bench.health]
kind = "{health}"
"""


# The listener with TLS, where one is wanted: TLS 1.3, HTTP/2 and HTTP/1.1 by ALPN, one and the same certificate.
TLS = {
    "nginx": """listen 127.0.0.1:{tls_port} ssl http2 reuseport backlog=4096; ssl_protocols TLSv1.3;
        ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
        http2_max_concurrent_streams 256; http2_recv_timeout 300s; keepalive_timeout 300s;""",
    "haproxy": "    bind 127.0.0.1:{tls_port} backlog 4096 ssl crt {dir}/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3",
    "evenkeel": """[[listeners]]
address = "127.0.0.1:{tls_port}"
[[listeners.tls.certificates]]
cert = "{dir}/cert.pem"
key = "{dir}/key.pem"
""",
}


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, proc, log, patience=30):
    """Returns once something listens on `port`; raises with the log's end when the process ends instead."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if proc.poll() is not None:
            raise RuntimeError(f"ended with {proc.returncode}: {log.read_text()[-800:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}: {log.read_text()[-800:]}")


class Running:
    """A process started here, in a directory of its own, and ended here."""

    def __init__(self, name, command, port, directory, wrap=(), tls_port=None):
        self.name, self.port, self.tls_port = name, port, tls_port
        self.log = directory / "log"
        with open(self.log, "w") as log:
            self.proc = subprocess.Popen([*wrap, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
        try:
            wait_port(port, self.proc, self.log)
        except RuntimeError as error:
            self.stop()
            raise RuntimeError(f"{name}: {error}") from None

    def pids(self):
        """The process and all its descendants."""
        found = [self.proc.pid]
        for pid in found:
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            except OSError:
                pass
        return found

    def cpu_ns(self):
        """Time on a processor so far, in nanoseconds as the scheduler counts, user and kernel, all threads."""
        total = 0
        for pid in self.pids():
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
            except OSError:
                pass
        return total

    def stop(self, patience=20):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(patience)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()


class Bench:
    """The backend and the proxies of one run. Use as a context manager: it ends all it started."""

    def __init__(self, binary, sizes, tls=False):
        """`tls`: each proxy has a second listener, with TLS."""
        self.binary, self.sizes, self.tls, self.running = str(binary), sizes, tls, []
        self.path = self.port = None
        self.dir = Path(tempfile.mkdtemp(prefix="evenkeel-bench-"))
        self.dir.chmod(0o755)  # nginx' workers run as another user when root starts it
        if tls:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                            "-keyout", "key.pem", "-out", "cert.pem"], cwd=self.dir, check=True, stderr=subprocess.DEVNULL)
            (self.dir / "both.pem").write_text("".join((self.dir / name).read_text() for name in ("cert.pem", "key.pem")))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in reversed(self.running):
            each.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _start(self, name, template, file, command, wrap=(), **values):
        directory = self.dir / name.replace("/", "-")
        directory.mkdir()
        port = values.setdefault("port", free_port())
        tls_port = free_port() if self.tls and name not in ("backend", "apart") else None
        if tls_port:
            values["tls"] = TLS[name.split("/")[0]].format(tls_port=tls_port, dir=self.dir)
        values.setdefault("tls", "")
        temp = "".join(f"{k}_temp_path {directory}/{k}; " for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = directory / file
        config.write_text(template.format(dir=directory, temp=temp, **values))
        started = Running(name, [part.format(config=config, dir=directory) for part in command], port, directory, wrap,
                          tls_port)
        self.running.append(started)
        return started

    def backend(self, wrap=()):
        """Starts the backend: /N answers N bytes, for each N of `sizes`."""
        self.ports = [free_port() for _ in range(BACKENDS)]
        return self._backend("backend", self.ports, wrap)

    def apart(self, path, wrap=()):
        """Starts a backend for this path alone, on another processor, say. Before the proxies, which are told of it."""
        self.path, self.port = path, free_port()
        return self._backend("apart", [self.port], wrap)

    def _backend(self, name, ports, wrap):
        listen = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
        started = self._start(name, BACKEND_CONF, "nginx.conf", ["nginx", "-c", "{config}", "-p", "{dir}"], wrap,
                              master="off", listen=listen, port=ports[0])
        files = self.dir / name / "files"
        files.mkdir()
        for size in self.sizes:
            (files / str(size)).write_bytes(b"x" * size)
        return started

    def proxy(self, name, wrap=(), health="http", master="on", h2c=False):
        """Starts `nginx`, `haproxy` or `evenkeel/STRATEGY`. `h2c`: nginx speaks HTTP/2 in place of HTTP/1.1."""
        def servers(line):
            return "\n".join(line.format(i=i + 1, port=port) for i, port in enumerate(self.ports))
        if name == "nginx":
            apart = f'location = {self.path} {{ proxy_pass http://127.0.0.1:{self.port}; proxy_http_version 1.1; }}'
            return self._start(name, NGINX_CONF, "nginx.conf", ["nginx", "-c", "{config}", "-p", "{dir}"], wrap,
                               master=master, protocol="http2" if h2c else "", apart=apart if self.path else "",
                               servers=servers("server 127.0.0.1:{port} max_fails=0;"))
        if name == "haproxy":
            apart = f"    use_backend apart if {{ path {self.path} }}\nbackend apart\n    server s 127.0.0.1:{self.port}"
            return self._start(name, HAPROXY_CFG, "haproxy.cfg", ["haproxy", "-f", "{config}", "-db"], wrap,
                               apart=apart if self.path else "",
                               servers=servers("    server s{i} 127.0.0.1:{port}"))
        strategy = name.removeprefix("evenkeel/")
        backends = servers('[[pools.bench.backends]]\nname = "b{i}"\naddress = "127.0.0.1:{port}"')
        return self._start(name, EVENKEEL_TOML, "evenkeel.toml", [self.binary, "run", "-c", "{config}"], wrap,
                           admin=free_port(), strategy=strategy, health=health, servers=backends)


def binary(arguments):
    """Adds the options that say which build is measured."""
    arguments.add_argument("--bin", type=Path, help="a built evenkeel; without it, one is built")
    arguments.add_argument("--profile", default="release", help="cargo profile to build with (release is what is shipped)")


def build(options):
    """The binary to measure, built unless one was named."""
    if options.bin:
        return options.bin.resolve()
    subprocess.run(["cargo", "build", "--locked", "--profile", options.profile], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / ("debug" if options.profile == "dev" else options.profile) / "evenkeel"


def need(*tools):
    """Ends the script when a tool is missing."""
    absent = [tool for tool in tools if not shutil.which(tool)]
    if absent:
        raise SystemExit(f"missing: {', '.join(absent)} (Debian: apt-get install nginx-light haproxy wrk nghttp2-client openssl valgrind strace)")
