//! `docs/configuration.md`, made from the table of keys.

use std::fmt::Write as _;

use super::{Kind, SECTIONS, Section, Written};
use crate::config::units::{show_duration, show_size};

const HEAD: &str = "\
# Configuration

Evenkeel reads one TOML file. This page lists every key; it is generated from the table that the parser itself uses
(`src/config/reference`), and `conf/full.toml` is the same as a file.

The smallest file that runs:

```toml
[[listeners]]
address = \"127.0.0.1:8080\"

[pools.ai]
strategy = \"peak_ewma\"

[[pools.ai.backends]]
name = \"instance-1\"
address = \"127.0.0.1:8001\"
```

Durations are texts such as `\"250ms\"`, `\"2s\"`, `\"1m30s\"`, `\"1h\"`; sizes such as `\"64KiB\"`, `\"1MiB\"`, `\"0\"`. Rates are
fractions: `0.05`. Relative paths start from the folder of the file. Where a secret is asked for, `\"env:NAME\"` takes it from
an environment variable instead of a file.

`evenkeel check -c FILE` shows every fault of a file at once, with its place and a hint; `--format json` gives the same to
programs. Unknown keys are faults.
";

/// The configuration reference in Markdown.
pub fn reference_markdown() -> String {
    let mut page = HEAD.to_owned();
    for section in SECTIONS.iter().filter(|section| !section.path.is_empty()) {
        section_markdown(section, &mut page);
    }
    page
}

/// Writing to a `String` cannot fail, so results are dropped.
fn section_markdown(section: &Section, page: &mut String) {
    let _ = write!(page, "\n## `{}`\n\n{}\n\n", section.header(), section.about);
    page.push_str("| key | takes | default | |\n|---|---|---|---|\n");
    for key in section.keys {
        let default = match (key.kind, key.written) {
            (Kind::Table | Kind::Tables | Kind::Map(_), Written::Default(_) | Written::Example(_)) => String::new(),
            (_, Written::Default(text)) => format!("`{text}`"),
            (_, Written::Example(text)) => format!("unset, e.g. `{text}`"),
            (Kind::Tables, Written::Required(_)) => "required".to_owned(),
            (_, Written::Required(text)) => format!("required, e.g. `{text}`"),
        };
        let _ = writeln!(page, "| `{}` | {} | {default} | {} |", key.name, takes(key.kind), key.about);
    }
}

fn takes(kind: Kind) -> String {
    match kind {
        Kind::Flag => "true, false".to_owned(),
        Kind::Integer(least, most) => format!("{least} to {most}"),
        Kind::Number(least, most) => format!("number, {least} to {most}"),
        Kind::Duration(least, most) => format!("duration, {} to {}", show_duration(least), show_duration(most)),
        Kind::Size(least, u64::MAX) => format!("size, from {}", show_size(least)),
        Kind::Size(least, most) => format!("size, {} to {}", show_size(least), show_size(most)),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Text(label) => label.to_owned(),
        Kind::List(label) => format!("list of {label}"),
        Kind::Table => "table".to_owned(),
        Kind::Tables => "list of tables".to_owned(),
        Kind::Map(label) => format!("table, {label}"),
    }
}
