//! A reload: read, validate, compare; prepare what may fail; commit what cannot; retire what is gone. It happens whole
//! or not at all.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::listeners::Place;
use super::overrides::{Overrides, Survival};
use super::{Control, Diff, leave, names, state};
use crate::admin::{LastReload, Refused, ReloadDone};
use crate::clock;
use crate::config::{ConfigError, ListenerPlan, Loaded, Plan, Severity, findings_as_json};
use crate::listener::bind;
use crate::pool::Pool;
use crate::proxy::Routing;
use crate::proxy::access_log::AccessLog;
use crate::tls;

/// What a reload needs beside the plan, made before anything live is touched.
struct Prepared {
    plan: Plan,
    listeners: Vec<(ListenerPlan, Place, Option<tls::Server>)>,
    pools_tls: Vec<(String, tls::Clients)>,
    access_log: Option<AccessLog>,
    token: Option<Option<String>>,
}

impl Control {
    /// Reads the file again and puts it in force, or says why not.
    pub(super) async fn reload(&mut self, answer: Option<oneshot::Sender<Result<ReloadDone, Refused>>>) {
        self.notifier.reloading();
        let outcome = self.try_reload().await;
        self.notifier.ready();
        let applied = outcome.is_ok();
        let errors = match &outcome {
            Ok(done) => {
                self.metrics.reloads_applied.increment(1);
                tracing::info!(generation = self.generation, changes = %done.diff, "configuration reloaded");
                Vec::new()
            }
            Err(refused) => {
                self.metrics.reloads_refused.increment(1);
                for fault in &refused.lines {
                    tracing::error!("{fault}");
                }
                let faults = refused.lines.len();
                tracing::error!(faults, "configuration not reloaded, the present one stays in force");
                refused.lines.clone()
            }
        };
        self.metrics.last_reload_success.set(if applied { 1.0 } else { 0.0 });
        self.board.set_last_reload(LastReload { at: SystemTime::now(), applied, errors });
        if let Some(answer) = answer {
            let _ = answer.send(outcome);
        }
    }

    async fn try_reload(&mut self) -> Result<ReloadDone, Refused> {
        let Some(source) = self.source.clone() else {
            return Err(plain("there is no configuration file to read again"));
        };
        let mut prepared = self.prepare(&source)?;
        let (diff, overrides, survival) = self.compare(&prepared.plan);
        self.keep_what_needs_a_restart(&mut prepared.plan);
        for key in &survival.dropped {
            tracing::info!(key, "override dropped: the file says something new there");
        }
        for key in &diff.restart_required {
            tracing::warn!(key, "this change takes effect at the next start (restart_required)");
        }
        self.overrides = overrides;
        self.commit(prepared).await;
        self.board.set_overrides(self.overrides.list());
        Ok(shown(&diff, survival))
    }

    /// What a reload would change: of the file as it is now, or of `text` in its place. Touches nothing.
    pub(super) fn preview(&self, text: Option<&str>) -> Result<ReloadDone, Refused> {
        let loaded = match (text, &self.source) {
            (Some(text), source) => {
                let folder = source.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
                Loaded::from_text(text, "the text", folder)
            }
            (None, Some(source)) => Loaded::from_file(source),
            (None, None) => return Err(plain("there is no configuration file to read again")),
        };
        let (diff, _, survival) = self.compare(&loaded.map_err(|errors| faults(errors.all()))?.plan);
        Ok(shown(&diff, survival))
    }

    /// What `plan` would change, and the overrides that would live on under it.
    fn compare(&self, plan: &Plan) -> (Diff, Overrides, Survival) {
        let (old, new) = (self.expanded(&self.plan), self.expanded(plan));
        let (overrides, survival) = self.overrides.survive(&old, &new);
        (Diff::between(&self.plan, plan), overrides, survival)
    }

    /// What only a restart can change stays as it is, and is told again at each reload until then.
    fn keep_what_needs_a_restart(&self, plan: &mut Plan) {
        plan.server.threads = self.plan.server.threads;
        plan.server.max_connections = self.plan.server.max_connections;
        plan.log.format = self.plan.log.format;
        let token = plan.admin.take().map(|admin| admin.token);
        plan.admin.clone_from(&self.plan.admin);
        if let (Some(admin), Some(token)) = (&mut plan.admin, token) {
            admin.token = token;
        }
    }

    /// Everything that may fail.
    fn prepare(&self, source: &Path) -> Result<Prepared, Refused> {
        let loaded = Loaded::in_part(source).map_err(|errors| faults(errors.all()))?;
        let of_tls = tls::examine(&loaded.plan).into_iter().map(|it| (it.key, it.message, it.hint, it.severity));
        let findings = loaded.survey(of_tls);
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(faults(&findings));
        }
        for warning in &findings {
            tracing::warn!("{}", warning.in_one_line());
        }
        let plan = loaded.plan;
        let refused = |error: tls::TlsError| plain(&error.to_string());
        let mut listeners = Vec::new();
        for (listener, present) in plan.listeners.iter().zip(self.present(&plan.listeners)) {
            let before = present.and_then(|present| present.shared.settings().tls.clone());
            let build = |tls| tls::Server::build(tls, listener.http2.enabled, before.as_deref());
            let tls = listener.tls.as_ref().map(build).transpose().map_err(refused)?;
            let place = match present {
                Some(present) => Place::Stays(present.id),
                None => Place::Opens(
                    bind(listener.address, self.workers.len())
                        .map_err(|error| plain(&format!("cannot listen on {}: {error}", listener.address)))?,
                ),
            };
            listeners.push((listener.clone(), place, tls));
        }
        let access_log = if plan.access_log == self.plan.access_log {
            None
        } else {
            let opened = AccessLog::open(&plan.access_log);
            Some(opened.map_err(|error| plain(&format!("access_log cannot be opened: {error}")))?)
        };
        // The admin server stays where it is until a restart; its token is read again in any case.
        let token = match (&plan.admin, &self.admin) {
            (Some(admin), Some(_)) => Some(crate::control::token(admin).map_err(|error| plain(&error))?),
            _ => None,
        };
        // A file that moves the server to a loopback address may do without a token, but until the restart it is reached
        // from outside.
        let reachable = self.plan.admin.as_ref().is_some_and(|admin| !admin.address.ip().is_loopback());
        let token = token.filter(|token| token.is_some() || !reachable);
        let mut pools_tls = Vec::new();
        for pool in &plan.pools {
            pools_tls.push((pool.name.clone(), self.clients_for(pool).map_err(refused)?));
        }
        Ok(Prepared { plan, listeners, pools_tls, access_log, token })
    }

    /// Nothing here can fail.
    async fn commit(&mut self, prepared: Prepared) {
        let now = clock::now();
        let Prepared { plan, listeners, mut pools_tls, access_log, token } = prepared;
        let present = self.shared.routing.load_full();
        let mut fresh = Vec::new();
        let mut pools = Vec::with_capacity(plan.pools.len());
        for wanted in &plan.pools {
            let in_force = self.in_force(wanted);
            match present.pool(&wanted.name) {
                Some(pool) => {
                    let at = pools_tls.iter().position(|(name, _)| *name == wanted.name);
                    let clients = at.map(|at| pools_tls.swap_remove(at).1);
                    if *pool.plan() != in_force {
                        let left = state::apply(pool, Arc::new(in_force), clients);
                        leave::follow(pool, left, None, plan.server.drain_timeout);
                    } else if let Some(clients) = clients {
                        pool.set_clients(&clients);
                    }
                    pools.push(Arc::clone(pool));
                }
                None => {
                    let pool = Pool::new(Arc::new(in_force), now);
                    // Before its first probe.
                    if let Some(at) = pools_tls.iter().position(|(name, _)| *name == wanted.name) {
                        pool.set_clients(&pools_tls.swap_remove(at).1);
                    }
                    fresh.push(Arc::clone(&pool));
                    pools.push(pool);
                }
            }
        }
        self.generation += 1;
        self.shared.routing.store(Arc::new(Routing::new(self.generation, &plan, pools.clone())));
        for pool in &fresh {
            state::load(pool);
            self.keep(pool);
            leave::follow(pool, Vec::new(), None, plan.server.drain_timeout);
        }
        for pool in present.pools.iter().filter(|pool| !plan.pools.iter().any(|kept| kept.name == *pool.name)) {
            leave::dismiss(pool, plan.server.drain_timeout);
        }
        self.settle(listeners);
        self.retire(&plan);
        self.certificates.forget();
        self.show_certificates();
        if let Some(log) = access_log {
            self.shared.replace_access_log(log);
        } else {
            self.shared.access_log.load().reopen();
        }
        if let (Some(token), Some(admin)) = (token, &self.admin) {
            admin.set_token(token);
        }
        if let Some(Err(error)) = self.logging.as_ref().map(|logging| logging.set_level(&plan.log.level)) {
            tracing::warn!("log.level stays as it is: {error}");
        }
        self.plan = plan;
        self.apply_names();
        if names::pause(&self.plan_of_names()).is_some() {
            self.look_names_up();
        }
        self.metrics.config_generation.set(self.generation as f64);
        self.board.set_generation(self.generation);
        self.show_listeners();
    }

    /// Ends what looked after pools that the new plan no longer has.
    fn retire(&mut self, plan: &Plan) {
        self.keepers.retain(|name, tasks| {
            let stays = plan.pools.iter().any(|pool| pool.name == **name);
            if !stays {
                tasks.iter().for_each(tokio::task::JoinHandle::abort);
            }
            stays
        });
    }
}

/// The answer to a reload.
fn shown(diff: &Diff, survival: Survival) -> ReloadDone {
    let mut shown = diff.to_json();
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("overrides_kept".into(), survival.kept.into());
        shown.insert("overrides_dropped".into(), survival.dropped.into());
    }
    ReloadDone { diff: shown }
}

fn plain(message: &str) -> Refused {
    Refused { message: message.to_owned(), errors: Vec::new(), lines: vec![message.to_owned()] }
}

/// All findings, for the log as text and for the API as JSON.
fn faults(findings: &[ConfigError]) -> Refused {
    let errors = serde_json::from_str(&findings_as_json(findings)).unwrap_or_default();
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let errors_alone = findings.iter().filter(|finding| finding.severity == Severity::Error);
    Refused { message: text.join("\n"), errors, lines: errors_alone.map(ConfigError::in_one_line).collect() }
}
