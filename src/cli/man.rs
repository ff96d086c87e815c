//! `evenkeel man`: the manual page, made from the definition of the command line.

use clap::{Args, Command};
use clap_mangen::Man;

use super::{Failure, output};

const EXAMPLES: &str = "\
Examples:
  evenkeel man > /usr/local/share/man/man1/evenkeel.1
  evenkeel man | man -l -";

/// Print the manual page (roff), all sub-commands included.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManArgs {}

impl ManArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let page = page().map_err(|error| Failure::Failed(format!("cannot make the page: {error}")))?;
        output::result(&String::from_utf8_lossy(&page))
    }
}

/// One page: the command itself, then a section for each sub-command.
fn page() -> std::io::Result<Vec<u8>> {
    let mut command = super::definition();
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).manual("Evenkeel");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    sections(&command, &mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

fn sections(command: &Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = sub.get_bin_name().unwrap_or(sub.get_name()).to_owned();
        // roff: a request starts a line with a dot, and takes its argument in quotes.
        page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
        if let Some(about) = sub.get_about() {
            page.extend_from_slice(format!("{}\n.PP\n", roff_text(&about.to_string())).as_bytes());
        }
        let help = sub.clone().disable_help_subcommand(true).render_usage().to_string();
        page.extend_from_slice(format!(".nf\n{}\n.fi\n", roff_text(&help)).as_bytes());
        options(sub, page);
        if let Some(examples) = sub.get_after_help() {
            page.extend_from_slice(format!(".PP\n.nf\n{}\n.fi\n", roff_text(&examples.to_string())).as_bytes());
        }
        sections(sub, page)?;
    }
    Ok(())
}

fn options(command: &Command, page: &mut Vec<u8>) {
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help") {
        let values: Vec<String> = argument
            .get_value_names()
            .filter(|_| argument.get_action().takes_values())
            .map(|names| names.iter().map(ToString::to_string).collect())
            .unwrap_or_default();
        let mut name = String::new();
        if let Some(short) = argument.get_short() {
            name.push_str(&format!("-{short}, "));
        }
        if let Some(long) = argument.get_long() {
            name.push_str(&format!("--{long}"));
            if !values.is_empty() {
                name.push(' ');
            }
        }
        name.push_str(&values.join(" "));
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        page.extend_from_slice(format!(".TP\n\\fB{}\\fR\n{}\n", roff_text(&name), roff_text(&help)).as_bytes());
    }
}

/// Text as roff takes it: backslashes and hyphens escaped, no line that starts with a dot or an apostrophe.
fn roff_text(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_every_command_and_no_stray_request() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for command in crate::cli::definition().get_subcommands() {
            let heading = format!(".SH \"EVENKEEL {}\"", command.get_name().to_uppercase());
            assert!(page.contains(&heading), "{heading}");
        }
        assert_eq!(roff_text(".so x\n'a\\b-c"), "\\&.so x\n\\&'a\\eb\\-c");
    }
}
