//! Preflight: files, secrets and names as they are on a machine.

use std::path::PathBuf;

use super::*;

/// Errors and warnings as `LINE: KEY: message`, with the folder's own name taken out.
fn found(folder: &Path, text: &str) -> Vec<String> {
    let loaded = Loaded::from_text(text, "test.toml", folder).unwrap_or_else(|errors| panic!("{errors}"));
    let placeless = preflight(&loaded.plan);
    let placed = loaded.preflight();
    assert_eq!(placeless.len(), placed.len());
    let clean = |text: &str| text.replace(&format!("{}/", folder.display()), "");
    let line = |finding: &ConfigError| {
        let severity = if finding.severity == Severity::Error { "" } else { "warning: " };
        format!("{}: {}: {severity}{}", finding.line, finding.key, clean(&finding.message))
    };
    placed.iter().map(line).collect()
}

#[cfg(unix)]
fn write(path: PathBuf, content: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[test]
fn files_and_secrets_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let text = format!("{MINIMAL}[admin]\ntoken_file = 'token'\n[access_log]\npath = 'log/access.json'\n");
    let missing = [
        "11: admin.token_file: token cannot be used: No such file or directory (os error 2)".to_owned(),
        "13: access_log.path: there is no folder log".to_owned(),
    ];
    assert_eq!(found(folder.path(), &text), missing);

    write(here("token"), "\n", 0o600);
    std::fs::create_dir(here("log")).unwrap();
    assert_eq!(found(folder.path(), &text), ["11: admin.token_file: token cannot be used: it is empty"]);

    write(here("token"), "a secret of some length\n", 0o644);
    let open = "11: admin.token_file: warning: token can be read by every user of this machine";
    assert_eq!(found(folder.path(), &text), [open]);

    write(here("token"), "a secret of some length\n", 0o600);
    assert_eq!(found(folder.path(), &text), Vec::<String>::new());

    std::fs::create_dir(here("log/access.json")).unwrap();
    assert_eq!(found(folder.path(), &text), ["13: access_log.path: log/access.json is a folder"]);

    let text = format!("{MINIMAL}[admin]\ntoken_file = 'env:EVENKEEL_TEST_NO_SUCH_VARIABLE'\n");
    let unset = "11: admin.token_file: EVENKEEL_TEST_NO_SUCH_VARIABLE: the environment variable is not set";
    assert_eq!(found(folder.path(), &text), [unset]);
}

#[test]
fn certificates_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    let mut plan = parse(MINIMAL).unwrap().0;
    let certificate =
        CertificatePlan { cert: folder.path().join("empty.pem"), key: Secret::File(folder.path().join("absent.key")) };
    plan.listeners[0].tls = Some(ListenerTlsPlan {
        subject_header: None,
        certificates: vec![certificate],
        client_ca: Some(folder.path().to_owned()),
        min_version: TlsVersion::V12,
    });
    let keys: Vec<String> = preflight(&plan).into_iter().map(|finding| finding.key).collect();
    let expected =
        ["certificates[0].cert", "certificates[0].key", "client_ca"].map(|key| format!("listeners[0].tls.{key}"));
    assert_eq!(keys, expected);
}

#[test]
fn names_are_looked_up() {
    let text = MINIMAL.replace("127.0.0.1:8001", "localhost:8001")
        + "[[pools.ai.backends]]\nname = 'b'\naddress = 'no-such-host.invalid:80'\n";
    let loaded = Loaded::from_text(&text, "test.toml", Path::new("")).unwrap();
    let names = loaded.preflight_names();
    let unknown: Vec<_> = names.iter().map(|finding| (finding.line, finding.key.as_str(), finding.severity)).collect();
    assert_eq!(unknown, [(12, "pools.ai.backends[1].address", Severity::Warning)], "{names:?}");
    assert_eq!(Loaded::from_text(MINIMAL, "test.toml", Path::new("")).unwrap().preflight_names(), []);
}

#[cfg(unix)]
#[test]
fn a_short_secret_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        format!("{MINIMAL}[admin]\ntoken_file = 'token'\n[pools.ai.sticky]\nmode = 'cookie'\nsecret_file = 'key'\n");
    for (length, expected) in [(15, 2), (16, 0)] {
        for name in ["token", "key"] {
            write(folder.path().join(name), &"x".repeat(length), 0o600);
        }
        let found = found(folder.path(), &text);
        assert_eq!(found.len(), expected, "{found:?}");
        if let [admin, sticky] = found.as_slice() {
            assert!(admin.contains("admin.token_file: warning: has 15 bytes"), "{admin}");
            assert!(sticky.contains("sticky.secret_file: has 15 bytes"), "{sticky}");
        }
    }
}

#[test]
fn one_server_under_two_names_is_told() {
    let backend =
        |name: &str, address: &str| format!("[[pools.ai.backends]]\nname = '{name}'\naddress = '{address}'\n");
    let text = MINIMAL.to_owned() + &backend("b", "localhost:8001") + &backend("c", "localhost:8002");
    // Whichever family comes first: both are the same server.
    let loaded = Loaded::from_text(&(text + &backend("d", "[::1]:8001")), "test.toml", Path::new("")).unwrap();
    let names = loaded.preflight_names();
    assert!(
        !names.is_empty() && names.iter().all(|name| name.message.contains("8001 now, the address of \"")),
        "{names:?}"
    );
}

/// Files are looked for although the text is faulty elsewhere; what the reader could not make out is not.
#[test]
fn the_world_is_judged_along_with_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.toml");
    let text = MINIMAL.replace("peak_ewma", "round_robbin")
        + "[admin]\naddress = '127.0.0.1:1'\ntoken_file = 'absent'\n[access_log]\npath = 7\n[pools.ai.sticky]\nsecret_file = ''\n";
    std::fs::write(&path, &text).unwrap();
    let draft = Loaded::in_part(&path).unwrap();
    assert!(!draft.is_sound());
    let of_tls = [("pools.ai.nothing".to_owned(), "not written".to_owned(), "", Severity::Error)];
    let all = draft.survey(of_tls);
    let errors: Vec<_> = all.iter().filter(|it| it.severity == Severity::Error).map(|it| it.key.as_str()).collect();
    assert_eq!(errors, ["pools.ai.strategy", "admin.token_file", "access_log.path", "pools.ai.sticky.secret_file"]);
    assert!(all.iter().all(|finding| !finding.in_one_line().contains('\n')));
}
