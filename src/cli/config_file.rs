//! Which configuration file is meant, and everything that is wrong with it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, output};
use crate::config::{ConfigError, ConfigErrors, Loaded, Plan, Severity, findings_as_text};
use crate::tls;

/// Where a configuration is looked for when none is named, in this order.
const PLACES: [&str; 2] = ["conf/evenkeel.toml", "/etc/evenkeel/evenkeel.toml"];

/// The configuration file.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file [default: conf/evenkeel.toml, then /etc/evenkeel/evenkeel.toml].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that was named, or the first of the usual ones that exists.
    ///
    /// # Errors
    /// Says where was looked when there is none.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.config {
            return Ok(path.clone());
        }
        PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            Failure::Usage(format!(
                "no configuration file: there is neither {} (from here) nor {}\n\
                 hint: name one with -c FILE, or begin without one: evenkeel quick --listen :8080 --to HOST:PORT",
                PLACES[0], PLACES[1]
            ))
        })
    }
}

/// A file that was read: its plan, unless something is wrong, and everything there is to say about it.
pub(super) struct Examined {
    pub(super) plan: Option<Plan>,
    pub(super) findings: Vec<ConfigError>,
}

/// Reads a file and looks whether the world is as it says: files, secrets, host names.
pub(super) fn examine(path: &Path) -> Examined {
    let draft = match Loaded::in_part(path) {
        Ok(draft) => draft,
        Err(errors) => return Examined { plan: None, findings: ConfigErrors::into_vec(errors) },
    };
    let of_tls =
        tls::examine(&draft.plan).into_iter().map(|fault| (fault.key, fault.message, fault.hint, fault.severity));
    let mut findings = draft.survey(of_tls);
    let names: Vec<_> = draft.preflight_names().into_iter().filter(|name| draft.is_news(name, &findings)).collect();
    findings.extend(names);
    findings.sort_by_key(|finding| (finding.line, finding.column));
    let usable = findings.iter().all(|finding| finding.severity != Severity::Error);
    Examined { plan: usable.then_some(draft.plan), findings }
}

/// The plan of a file, with its warnings said on stderr.
///
/// # Errors
/// Every fault at once.
pub(super) fn load(path: &Path) -> Result<Plan, Failure> {
    let examined = examine(path);
    if !examined.findings.is_empty() {
        output::complain(&findings_as_text(&examined.findings));
    }
    examined.plan.ok_or_else(|| Failure::Usage(format!("{}: not usable, nothing was started", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_looked_at_beside_other_faults() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.pem"), "junk").unwrap();
        let entry = "{ cert = \"a.pem\", key = \"a.pem\" }";
        let listener = |more: &str, entries: &str| {
            format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{more}\ntls = {{ certificates = [{entries}] }}\n")
        };
        let found = |text: String| {
            let file = folder.path().join("a.toml");
            std::fs::write(&file, text + "[pools.ai]\nbackends = [{ name = \"a\", address = \"127.0.0.1:1\" }]\n")
                .unwrap();
            let examined = examine(&file);
            assert!(examined.plan.is_none());
            let errors = examined.findings.into_iter().filter(|finding| finding.severity == Severity::Error);
            errors.map(|finding| finding.key).collect::<Vec<_>>()
        };
        let certificate = "listeners[0].tls.certificates[0].cert";
        assert_eq!(found(listener("", entry)), [certificate]);
        assert_eq!(found(listener("max_uri = 5", entry)), ["listeners[0].max_uri", certificate]);
        // Which entry is which cannot be told any more.
        let faulty = format!("{{ cert = 5, key = \"a.pem\" }}, {entry}");
        assert_eq!(found(listener("", &faulty)), [certificate]);
    }
}
