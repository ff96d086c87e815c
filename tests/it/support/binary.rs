//! The real binary, as an operator runs it: a configuration file, ready lines on stdout, a log on stderr, signals.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Message, Raw, Samples, TestBackend, comes_to, eventually, until};

/// A running `evenkeel`. Killed when dropped.
pub(crate) struct Binary {
    child: Child,
    folder: tempfile::TempDir,
    listeners: Vec<SocketAddr>,
    secure: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Binary {
    /// `evenkeel run` with this configuration, once it is ready.
    #[track_caller]
    pub(crate) fn run(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("evenkeel.toml"), config).unwrap();
        let file = folder.path().join("evenkeel.toml").display().to_string();
        Self::start(&["run", "-c", &file], folder)
    }

    /// The same after a shell has run `before`.
    #[track_caller]
    pub(crate) fn run_after(before: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("evenkeel.toml"), config).unwrap();
        let file = folder.path().join("evenkeel.toml").display().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_evenkeel")]);
        Self::launch(shell, &["run", "-c", &file], folder)
    }

    /// `evenkeel` with these arguments, once it has said on stdout where it listens.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str], folder: tempfile::TempDir) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_evenkeel")), arguments, folder)
    }

    #[track_caller]
    fn launch(mut command: Command, arguments: &[&str], folder: tempfile::TempDir) -> Self {
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the binary");
        let (log, said) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
        let readers = vec![
            collect(child.stderr.take().unwrap(), Arc::clone(&log)),
            collect(child.stdout.take().unwrap(), Arc::clone(&said)),
        ];
        let mut this = Self { child, folder, listeners: Vec::new(), secure: Vec::new(), admin: None, log, readers };
        // The last ready line is the admin server's, where there is one.
        let wants_admin = arguments.first() == Some(&"run");
        eventually("ready lines", || {
            if let Some(status) = this.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", this.log());
            }
            let said = said.lock().unwrap();
            this.listeners = addresses(&said, "listening http ");
            this.secure = addresses(&said, "listening https ");
            this.admin = addresses(&said, "admin http ").first().copied();
            ((!this.listeners.is_empty() || !this.secure.is_empty()) && (this.admin.is_some() || !wants_admin))
                .then_some(())
        });
        this
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Where clients connect over TLS.
    pub(crate) fn secure_address(&self) -> SocketAddr {
        self.secure[0]
    }

    /// Where clients connect over TLS, one address for each listener that has it.
    pub(crate) fn secure_addresses(&self) -> &[SocketAddr] {
        &self.secure
    }

    /// A new client.
    #[track_caller]
    pub(crate) fn client(&self) -> Raw {
        Raw::connect(self.address())
    }

    /// `GET path` on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Message {
        self.client().get(path)
    }

    /// The admin server.
    #[track_caller]
    pub(crate) fn admin(&self) -> Raw {
        Raw::connect(self.admin.expect("an admin server"))
    }

    /// Where the admin server listens.
    #[track_caller]
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.expect("an admin server")
    }

    /// One metric, summed over what the labels leave open.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Samples::parse(self.admin().get("/metrics").text()).sum(name, labels)
    }

    /// Waits until that metric is `value`: what a request leaves in the counts may come after its last byte.
    #[track_caller]
    pub(crate) fn comes_to(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        comes_to(&format!("{name} {labels:?}"), value, || self.metric(name, labels));
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("evenkeel.toml")
    }

    /// Writes another configuration, in one piece.
    pub(crate) fn write(&self, config: &str) {
        let draft = self.folder.path().join("draft.toml");
        std::fs::write(&draft, config).unwrap();
        std::fs::rename(&draft, self.file()).unwrap();
    }

    /// Writes another configuration and reloads it; whether it was put in force.
    #[track_caller]
    pub(crate) fn reload(&self, config: &str) -> bool {
        let reloads = || self.metric("evenkeel_config_reloads_total", &[]);
        let before = reloads();
        self.write(config);
        self.signal("HUP");
        until("the reload", || reloads() > before);
        self.metric("evenkeel_config_last_reload_success", &[]) == 1.0
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status().expect("kill");
        assert!(sent.success(), "kill -{name}");
    }

    /// Sets one of its soft limits while it runs, in the words of prlimit (`nofile`, `fsize`); whether that can be done
    /// here.
    pub(crate) fn limit(&self, what: &str, to: &str) -> bool {
        let id = self.child.id().to_string();
        let limit = Command::new("prlimit").args(["--pid", &id, &format!("--{what}={to}:")]).status();
        let limited = limit.is_ok_and(|status| status.success());
        assert!(limited || std::env::var_os("EVENKEEL_REQUIRE_TOOLS").is_none(), "prlimit is needed");
        limited
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = eventually("its end", || self.child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        status
    }

    /// Drains it and asserts that it ends well.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("-- the binary's log:\n{}", self.log());
        }
    }
}

fn collect(from: impl std::io::Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut into = into.lock().unwrap();
            into.push_str(&line);
            into.push('\n');
        }
    })
}

fn addresses(said: &str, prefix: &str) -> Vec<SocketAddr> {
    said.lines().filter_map(|line| line.strip_prefix(prefix)?.trim().parse().ok()).collect()
}

/// A configuration in the making: two workers, an admin server, one pool `ai` without health checks.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Of the pool.
    pub(crate) strategy: &'static str,
    /// Lines of `[server]`.
    pub(crate) server: &'static str,
    /// Lines of `[pools.ai]`, tables not among them.
    pub(crate) pool: String,
    /// Name, address, weight.
    pub(crate) backends: Vec<(String, SocketAddr, u32)>,
}

impl Config {
    /// In front of these, named `a`, `b`, …, of weight 1.
    pub(crate) fn new(backends: &[&TestBackend]) -> Self {
        let named = ('a'..).zip(backends).map(|(name, backend)| (name.to_string(), backend.address(), 1));
        Self { strategy: "round_robin", server: "threads = 2", pool: String::new(), backends: named.collect() }
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let Self { strategy, server, pool, backends } = self;
        let backends: String = backends
            .iter()
            .map(|(name, address, weight)| {
                format!("[[pools.ai.backends]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n")
            })
            .collect();
        format!(
            "[server]\n{server}\n\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [access_log]\nformat = \"off\"\n\
             [pools.ai]\nstrategy = \"{strategy}\"\n{pool}\n{backends}\
             [pools.ai.health]\nkind = \"none\"\n"
        )
    }
}
