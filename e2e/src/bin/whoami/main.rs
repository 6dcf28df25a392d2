//! The server and the client of the tests of Services: a server answers with its name and with the client's address as it
//! saw it, a client tells of each attempt what came of it. Both run where a test puts them: in a pod, on a node, outside.

mod ask;
mod dns;
mod http;
mod serve;
mod stray;
mod web;

use clap::{Args, Parser, Subcommand};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answers on these ports, in both families, until it is killed. Says `ready` once it listens.
    Serve {
        /// Who it says it is.
        #[arg(long)]
        name: String,
        /// TCP ports.
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<u16>,
        /// UDP ports, on every address that this place has now.
        #[arg(long, value_delimiter = ',')]
        udp: Vec<u16>,
        /// Listen on this address alone.
        #[arg(long)]
        on: Option<IpAddr>,
    },
    /// Answers HTTP on this port, in both families, until it is killed. Says `ready` once it listens.
    Web {
        /// Who it says it is.
        #[arg(long)]
        name: String,
        /// The port.
        #[arg(long)]
        port: u16,
    },
    /// Asks a server, and prints a line of JSON for each attempt.
    Ask(Ask),
    /// Prints the addresses of this place.
    Addresses,
    /// Answers segments of TCP, beside the connection that they belong to, with ones far outside of its window.
    Stray {
        /// An address of this place, and a port.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// How many.
        count: u32,
    },
    /// DNS, asking and asked.
    #[command(subcommand)]
    Dns(dns::Dns),
    /// Asks over HTTP; prints status and body as a line of JSON.
    Get {
        /// Whom.
        target: SocketAddr,
        /// For what.
        #[arg(default_value = "/healthz")]
        path: String,
    },
}

/// How to ask.
#[derive(Args, Clone)]
struct Ask {
    /// Whom.
    target: SocketAddr,
    /// By UDP.
    #[arg(long)]
    udp: bool,
    /// How often; 0: until standard input ends.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// How long an attempt may take.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    timeout: u64,
    /// Between two attempts.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    gap: u64,
    /// So many a second, whatever answers take, while fewer than `--threads` are waited for; what is late is asked at once.
    #[arg(long, value_name = "N", conflicts_with = "gap")]
    rate: Option<std::num::NonZeroU32>,
    /// From this address.
    #[arg(long)]
    from: Option<IpAddr>,
    /// From this port.
    #[arg(long, default_value_t = 0)]
    from_port: u16,
    /// All attempts over one connection, or one socket.
    #[arg(long)]
    keep: bool,
    /// Ask over HTTP, for this host. A kept connection that the server closed is opened again, as clients of HTTP do.
    #[arg(long, value_name = "HOST", conflicts_with = "udp")]
    http: Option<String>,
    /// So many at a time.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Stop at the first that is no answer.
    #[arg(long)]
    fail_fast: bool,
    /// Print only what was no answer, and a summary at the end.
    #[arg(long)]
    summary: bool,
}

fn get(target: SocketAddr, path: &str) -> std::io::Result<()> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&target, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status: Option<u16> = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    println!("{}", serde_json::json!({"status": status, "head": head, "body": body}));
    Ok(())
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Serve { name, tcp, udp, on } => serve::run(&name, &tcp, &udp, on),
        Verb::Web { name, port } => web::run(&name, port),
        Verb::Ask(order) => ask::run(&order),
        Verb::Stray { from, to, count } => stray::send(from, to, count),
        Verb::Addresses => serve::own_addresses().map(|all| println!("{}", serde_json::json!(all))),
        Verb::Dns(what) => dns::run(&what),
        Verb::Get { target, path } => get(target, &path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whoami: {error}");
            ExitCode::FAILURE
        }
    }
}
