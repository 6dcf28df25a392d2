//! Pages of docs/ that the code writes. The test fails when one says something else; `cargo xtask docs` writes them.

use clap::{Arg, Command, CommandFactory as _};
use std::fmt::Write as _;
use std::path::Path;
use warren_agent::config::{KEYS, LISTS, SERVER_KEYS};

/// What is written into a page, between `<!-- MARK -->` and `<!-- /MARK -->`.
struct Part {
    page: &'static str,
    mark: &'static str,
    text: String,
}

fn parts() -> [Part; 4] {
    let mut tree = crate::Cli::command();
    tree.build();
    let mut commands = String::new();
    describe(&mut commands, &tree, "warren", None);
    let part = |page, text| Part { page, mark: "generated", text };
    [
        part("docs/reference/cli.md", commands),
        part("docs/reference/configuration.md", settings(&tree)),
        part("docs/reference/metrics.md", metrics()),
        Part { page: "docs/doctor.md", mark: "checks", text: warren_doctor::markdown() },
    ]
}

/// A command, and all below it that are shown. What its `parent` takes already is not said again.
fn describe(out: &mut String, command: &Command, path: &str, parent: Option<&Command>) {
    let _ = writeln!(out, "## {path}\n");
    if let Some(about) = command.get_about() {
        let _ = writeln!(out, "{}\n", sentence(&about.to_string()));
    }
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(out, "```\n{}\n```\n", usage.trim_start_matches("Usage: "));
    let installs = path.starts_with("warren install ");
    let all = command.get_arguments().filter(|arg| {
        let known = parent.is_some_and(|p| p.get_arguments().any(|a| a.get_id() == arg.get_id()));
        let everywhere = arg.is_global_set() && known;
        // The rest are the settings of what is installed.
        let setting = installs && arg.get_help_heading() != Some("Installation");
        !(arg.is_hide_set() || everywhere || setting || ["help", "version"].contains(&arg.get_id().as_str()))
    });
    let rows: Vec<[String; 4]> = all
        .map(|arg| {
            let (meaning, default) = meaning(arg);
            [format!("`{}`", name(arg)), code(&default), code(&variable(arg)), meaning]
        })
        .collect();
    table(out, ["Argument", "Default", "Variable", "Meaning"], &rows);
    if installs {
        out.push_str("It also takes the settings of what it installs, as flags: [configuration](configuration.md).\n\n");
    }
    if let Some(after) = command.get_after_help() {
        let _ = writeln!(out, "{}\n", escaped(&after.to_string()).replace('\n', "\n\n"));
    }
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        describe(out, below, &format!("{path} {}", below.get_name()), Some(command));
    }
}

fn settings(tree: &Command) -> String {
    let mut out = String::new();
    let daemon = |name| tree.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let row = |key: &str, arg: &Arg, list: bool| {
        let (meaning, default) = meaning(arg);
        let value = value(arg).unwrap_or_else(|| "BOOL".to_owned());
        let list = if list { ", or a list" } else { "" };
        [format!("`{key}`"), format!("`{}`{list}", piped(&value)), code(&default), meaning]
    };
    let mut groups: Vec<(&str, Vec<[String; 4]>)> = Vec::new();
    for arg in daemon("agent") {
        let Some(key) = arg.get_long().filter(|key| KEYS.contains(key)) else { continue };
        let heading = arg.get_help_heading().unwrap_or_default();
        if groups.last().is_none_or(|(last, _)| *last != heading) {
            groups.push((heading, Vec::new()));
        }
        if let Some((_, rows)) = groups.last_mut() {
            rows.push(row(key, arg, LISTS.contains(&key)));
        }
    }
    let header = ["Key", "Value", "Default", "Meaning"];
    for (heading, rows) in groups {
        let _ = writeln!(out, "## Agent: {heading}\n");
        table(&mut out, header, &rows);
    }
    out.push_str("## Server\n\n");
    let server = tree.find_subcommand("server").into_iter().flat_map(crate::server::keys);
    let rows: Vec<_> = server.map(|(key, arg)| row(key, arg, arg.get_value_delimiter().is_some())).collect();
    table(&mut out, header, &rows);
    out
}

fn metrics() -> String {
    let mut out = String::new();
    let rows: Vec<[String; 4]> = warren_agent::metrics::FAMILIES
        .iter()
        .map(|m| {
            let labels: Vec<String> = m.labels.iter().map(|label| format!("`{label}`")).collect();
            [format!("`{}`", m.shown()), m.kind.word().to_owned(), labels.join(" "), sentence(m.help)]
        })
        .collect();
    table(&mut out, ["Metric", "Type", "Labels", "Meaning"], &rows);
    out
}

fn table(out: &mut String, header: [&str; 4], rows: &[[String; 4]]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "| {} |\n|---|---|---|---|", header.join(" | "));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}

/// How an argument is written on a command line, for a table.
fn name(arg: &Arg) -> String {
    let short = arg.get_short().map(|c| format!("-{c}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let words: Vec<String> = short.into_iter().chain(long).collect();
    let value = value(arg);
    piped(&match (words.is_empty(), value) {
        (true, value) => value.unwrap_or_default(),
        (false, Some(value)) => format!("{} {value}", words.join(", ")),
        (false, None) => words.join(", "),
    })
}

fn value(arg: &Arg) -> Option<String> {
    let names: Vec<&str> = arg.get_value_names()?.iter().map(AsRef::as_ref).collect();
    (arg.is_positional() || arg.get_action().takes_values()).then(|| names.join(" "))
}

fn variable(arg: &Arg) -> String {
    arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What an argument means, and its default, which may be the program's or a word in the help.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (mut text, mut default) = (help.replace('\n', " "), String::new());
    if let Some(start) = text.find(" [default: ")
        && let Some(length) = text[start..].find(']')
    {
        default = text[start + " [default: ".len()..start + length].to_owned();
        text.replace_range(start..=start + length, "");
    }
    if arg.get_action().takes_values() && !arg.get_default_values().is_empty() {
        let values: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
        default = values.join(",");
    }
    let choices: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect(),
        false => Vec::new(),
    };
    let mut text = sentence(&text);
    if !choices.is_empty() && choices != ["`true`", "`false`"] {
        text += &format!(" One of {}.", choices.join(", "));
    }
    (text, default)
}

/// With a full stop, and nothing that Markdown takes for its own.
fn sentence(text: &str) -> String {
    let text = escaped(text.trim());
    if text.is_empty() || text.ends_with(['.', '?', '!']) { text } else { text + "." }
}

fn escaped(text: &str) -> String {
    let mut code = false;
    text.chars().fold(String::new(), |mut out, c| {
        code ^= c == '`';
        match c {
            '|' => out.push_str("\\|"),
            '*' | '<' if !code => out.extend(['\\', c]),
            _ => out.push(c),
        }
        out
    })
}

/// What stands in backticks in a table.
fn piped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A value as code, a description as text.
fn code(text: &str) -> String {
    match text {
        "" => String::new(),
        _ if text.contains(' ') => escaped(text),
        _ => format!("`{}`", piped(text)),
    }
}

#[test]
fn the_pages_say_what_the_code_does() {
    let write = std::env::var_os("WARREN_UPDATE_DOCS").is_some();
    let mut stale = Vec::new();
    for Part { page, mark, text } in parts() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
        let old = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{page}: {e}"));
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
        let start = old.find(&begin).unwrap_or_else(|| panic!("{page} has no {begin}")) + begin.len();
        let stop = old.find(&end).unwrap_or_else(|| panic!("{page} has no {end}"));
        if old[start..stop] == text {
            continue;
        }
        let new = format!("{}{text}{}", &old[..start], &old[stop..]);
        if write {
            std::fs::write(&path, new).unwrap();
            continue;
        }
        let differs = old.lines().zip(new.lines()).find(|(a, b)| a != b);
        stale.push(format!("{page}: {differs:?}"));
    }
    assert!(stale.is_empty(), "`cargo xtask docs` writes these anew: {stale:#?}");
}

#[test]
fn an_agent_takes_the_file_of_its_server() {
    let mut tree = crate::Cli::command();
    tree.build();
    let server = tree.find_subcommand("server").unwrap();
    let mut own: Vec<&str> =
        crate::server::keys(server).map(|(key, _)| key).filter(|key| !KEYS.contains(key)).collect();
    let mut known = SERVER_KEYS.to_vec();
    own.sort_unstable();
    known.sort_unstable();
    assert_eq!(own, known);
}

#[test]
fn what_help_says_of_a_default_is_the_default() {
    let arg = Arg::new("x").long("x").value_name("ON|OFF").help("Do it, or *not* [default: on]. So there");
    assert_eq!(meaning(&arg), ("Do it, or \\*not\\*. So there.".to_owned(), "on".to_owned()));
    assert_eq!(name(&arg), "--x ON\\|OFF");
}
