//! `warren token`: credentials that an administrator gives out.

use crate::api::{self, Api, ApiArgs};
use crate::output;
use crate::status::{Output, print_json};
use clap::{Args, Subcommand, ValueEnum};
use http::{Method, header};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Where a server keeps its tokens.
const PATH: &str = "/v1-warren/tokens";

/// Arguments of `warren token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it; it is shown this once.
    Create {
        /// What its bearer may do.
        #[arg(long, value_enum, default_value = "node")]
        role: Role,
        /// How long it is good: a number with s, m, h or d, or `never`.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl)]
        ttl: Ttl,
        /// What it is for.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// List the tokens, without their secrets.
    List {
        /// Form of the output.
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// End a token at once.
    Revoke {
        /// The token's id, as `list` shows it.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Everything.
    Admin,
    /// Join nodes.
    Node,
    /// Read all but Secrets.
    Viewer,
}

/// Seconds; none: no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ttl(Option<u32>);

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl(None));
    }
    let wrong = || format!("{text:?} is no time: give a number with s, m, h or d (such as 24h), or `never`");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u32 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|s| *s > 0).map(|s| Ttl(Some(s))).ok_or_else(wrong)
}

/// Runs the command.
pub(crate) fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    api::block_on(async {
        match args.command {
            TokenCommand::Create { role, ttl, description, api } => {
                create(&api.api().await?, role, ttl, &description).await
            }
            TokenCommand::List { output, api } => list(&api.api().await?, output).await,
            TokenCommand::Revoke { id, api } => revoke(&api.api().await?, &id).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn create(api: &Api, role: Role, ttl: Ttl, description: &str) -> anyhow::Result<()> {
    let role = role.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    let mut wanted = json!({ "role": role, "description": description });
    if let Some(seconds) = ttl.0 {
        wanted["ttlSeconds"] = seconds.into();
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    let made = api.json(Method::POST, PATH, &json, wanted.to_string().into_bytes()).await?;
    // The token alone on stdout, so that it can go into a file.
    output::line(made["token"].as_str().unwrap_or_default());
    Ok(())
}

async fn list(api: &Api, form: Output) -> anyhow::Result<()> {
    let found = api.json(Method::GET, PATH, &[], Vec::new()).await?;
    if form == Output::Json {
        print_json(&found["tokens"])?;
    } else {
        output::text(&render(found["tokens"].as_array().map_or(&[], Vec::as_slice)));
    }
    Ok(())
}

fn render(tokens: &[Value]) -> String {
    if tokens.is_empty() {
        return "No tokens but those in the server's files; `warren token create` makes one.\n".into();
    }
    let mut rows = vec![["ID", "ROLE", "CREATED", "EXPIRES", "DESCRIPTION"].map(str::to_owned).to_vec()];
    for t in tokens {
        let text = |key: &str| t[key].as_str().unwrap_or_default().to_owned();
        // Seconds are enough.
        let time =
            |key: &str| text(key).split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned();
        let expires = match (t["expires"].is_null(), t["expired"] == true) {
            (true, _) => "never".to_owned(),
            (false, true) => "expired".to_owned(),
            (false, false) => format!("{}Z", time("expires")),
        };
        rows.push(vec![
            text("id"),
            text("role"),
            format!("{}Z", time("created")),
            expires,
            text("description"),
        ]);
    }
    output::table(&rows)
}

async fn revoke(api: &Api, id: &str) -> anyhow::Result<()> {
    // Whoever pastes the whole token means its id; the secret is not sent.
    let id = id.rsplit(':').next().unwrap_or_default().split('.').next().unwrap_or_default();
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        anyhow::bail!(crate::failure::UsageError(format!(
            "{id:?} is no id of a token; `warren token list` shows them"
        )));
    }
    api.json(Method::DELETE, &format!("{PATH}/{id}"), &[], Vec::new()).await?;
    output::line(format_args!("token {id} revoked"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(ttl("24h"), Ok(Ttl(Some(86_400))));
        assert_eq!(ttl("7d"), Ok(Ttl(Some(604_800))));
        assert_eq!(ttl("never"), Ok(Ttl(None)));
        for bad in ["", "h", "0h", "-1h", "1w", "1", "99999999d", "1é"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_shows_what_an_administrator_needs() {
        let token = |id: &str, expires: Value, expired: bool| {
            json!({"id": id, "role": "viewer", "created": "2026-01-02T03:04:05.678Z", "expires": expires,
                "expired": expired, "description": "a screen"})
        };
        let all = [
            token("0a", json!(null), false),
            token("0b", json!("2026-01-03T03:04:05Z"), false),
            token("0c", json!("2026-01-01T03:04:05Z"), true),
        ];
        assert_eq!(
            render(&all),
            "ID   ROLE     CREATED                EXPIRES                DESCRIPTION\n\
             0a   viewer   2026-01-02T03:04:05Z   never                  a screen\n\
             0b   viewer   2026-01-02T03:04:05Z   2026-01-03T03:04:05Z   a screen\n\
             0c   viewer   2026-01-02T03:04:05Z   expired                a screen\n"
        );
        assert!(render(&[]).contains("warren token create"));
    }
}
