//! Values of annotations: from text to something valid, or why not, in words for whoever wrote it.

use crate::route::{HeaderEdits, PathEdit, Rate, Redirect, SameSite, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;
use warren_types::HostPattern;

/// Most entries of a list.
const ENTRIES: usize = 256;
/// The longest time: a week.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Headers that say where a message ends, for whom it is, or who sent it: not for edits.
const UNTOUCHABLE: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "forwarded",
];

/// Longest text that is shown to people.
const SHOWN: usize = 80;

/// A text of somebody's, in quotes, on one line, and not too long.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN).collect();
    format!("{short:?}{}", if short.len() < text.len() { "..." } else { "" })
}

/// What a value is, or why it is none.
pub(super) type Parsed<T> = Result<T, String>;

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("use \"true\" or \"false\"".into()),
    }
}

pub(super) fn number(text: &str) -> Parsed<u32> {
    text.parse().map_err(|_| "use a whole number".into())
}

pub(super) fn positive(text: &str) -> Parsed<u32> {
    number(text).and_then(|n| if n == 0 { Err("use a number from 1".into()) } else { Ok(n) })
}

/// `500ms`, `30s`, `5m`, `1h`; a number alone is seconds, as ingress-nginx has it.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let wrong = || "use a time such as 30s, 5m or 500ms".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let each = match unit {
        "ms" => Duration::from_millis(1),
        "" | "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3_600),
        _ => return Err(wrong()),
    };
    let whole = u32::try_from(count).ok().and_then(|count| each.checked_mul(count));
    whole.filter(|d| !d.is_zero() && *d <= LONGEST).ok_or_else(|| "use a time from 1ms to 168h".into())
}

/// Bytes: `1048576`, `512k`, `8m`, `1g`. 0 is no limit.
pub(super) fn size(text: &str) -> Parsed<Option<u64>> {
    let wrong = || "use a size such as 8m, 512k or 1g; 0 is no limit".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let each: u64 = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = count.checked_mul(each).ok_or_else(wrong)?;
    Ok((bytes > 0).then_some(bytes))
}

/// `10/s`, `600/m`, `1000/h`.
pub(super) fn rate(text: &str) -> Parsed<Rate> {
    let wrong = || "use a rate such as 10/s, 600/m or 1000/h".to_owned();
    let (requests, per) = text.split_once('/').ok_or_else(wrong)?;
    let per = match per {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    Ok(Rate { requests: positive(requests).map_err(|_| wrong())?, per: Duration::from_secs(per) })
}

/// The entries of a list with commas; empty ones do not count.
fn entries(text: &str) -> Parsed<Vec<&str>> {
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    match entries.len() {
        0 => Err("the list is empty".into()),
        n if n > ENTRIES => Err(format!("{n} entries; {ENTRIES} are the most")),
        _ => Ok(entries),
    }
}

fn each<T>(text: &str, parse: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
    entries(text)?
        .into_iter()
        .map(|entry| parse(entry).map_err(|why| format!("{}: {why}", shown(entry))))
        .collect()
}

/// Ranges of addresses, and single addresses.
pub(super) fn ranges(text: &str) -> Parsed<Vec<IpNet>> {
    each(text, |entry| {
        let net = entry.parse::<IpNet>().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from));
        net.map(|net| net.trunc()).ok_or_else(|| "use a range such as 10.0.0.0/8 or 2001:db8::/32".into())
    })
}

/// Hosts.
pub(super) fn hosts(text: &str) -> Parsed<Vec<HostPattern>> {
    each(text, |entry| HostPattern::new(entry.to_ascii_lowercase()).map_err(|e| e.to_string()))
}

fn header_name(text: &str) -> Parsed<HeaderName> {
    HeaderName::try_from(text.trim()).map_err(|_| format!("{} is no name of a header", shown(text)))
}

fn editable(name: HeaderName) -> Parsed<HeaderName> {
    let own = UNTOUCHABLE.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-");
    if own { Err(format!("header {name} is Warren's own to set")) } else { Ok(name) }
}

/// Names of headers.
pub(super) fn header_names(text: &str) -> Parsed<Vec<HeaderName>> {
    each(text, header_name)
}

/// Names of headers to be taken away.
pub(super) fn header_removals(text: &str) -> Parsed<Vec<HeaderName>> {
    each(text, |entry| header_name(entry).and_then(editable))
}

/// Headers, `Name: value`, one a line.
pub(super) fn headers(text: &str) -> Parsed<Vec<(HeaderName, HeaderValue)>> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() || lines.len() > ENTRIES {
        return Err(format!("use 1 to {ENTRIES} lines such as `Name: value`"));
    }
    let line = |line: &str| {
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("{} is no `Name: value`", shown(line)))?;
        Ok((header_name(name).and_then(editable)?, header_value(value.trim())?))
    };
    lines.into_iter().map(line).collect()
}

/// The value of a header.
pub(super) fn header_value(text: &str) -> Parsed<HeaderValue> {
    let clean = text.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t');
    let value = HeaderValue::from_str(text).ok().filter(|_| clean);
    value.ok_or_else(|| format!("{} is no value of a header", shown(text)))
}

/// The value of `Host`.
pub(super) fn authority(text: &str) -> Parsed<HeaderValue> {
    let plain = text.parse::<http::uri::Authority>().is_ok_and(|a| !a.as_str().contains('@'));
    if plain { header_value(text) } else { Err("use a host, with or without a port".into()) }
}

/// Methods.
pub(super) fn methods(text: &str) -> Parsed<Vec<Method>> {
    each(text, |entry| Method::try_from(entry).map_err(|_| "is no method".into()))
}

/// Origins: `*`, `https://example.org`, `https://*.example.org`.
pub(super) fn origins(text: &str) -> Parsed<Vec<Box<str>>> {
    each(text, |entry| {
        let host = || {
            let host = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://"))?;
            let (name, port) = host.split_once(':').unwrap_or((host, "80"));
            let plain = |name: &str| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            };
            (plain(name.strip_prefix("*.").unwrap_or(name)) && port.parse::<u16>().is_ok()).then_some(())
        };
        if entry == "*" || host().is_some() {
            Ok(entry.to_ascii_lowercase().into())
        } else {
            Err("use an origin such as https://example.org, or *".into())
        }
    })
}

/// A path, as it is to be in a request.
pub(super) fn path(text: &str) -> Parsed<Box<str>> {
    let plain =
        text.starts_with('/') && !text.starts_with("//") && uri_bytes(text) && !text.contains(['?', '#']);
    if plain { Ok(text.into()) } else { Err("use a path such as /app, percent-encoded where needed".into()) }
}

fn uri_bytes(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

/// Where a redirect leads: a URL, or a path.
pub(super) fn redirect(text: &str, status: StatusCode) -> Parsed<Redirect> {
    let wrong = || "use a URL such as https://example.org/there, or a path".to_owned();
    if !uri_bytes(text) || text.contains('#') {
        return Err(wrong());
    }
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let full = |uri: &Uri| uri.path_and_query().map(|path| PathEdit::Full(path.as_str().into()));
    if uri.scheme().is_none() {
        if !text.starts_with('/') || text.starts_with("//") {
            return Err(wrong());
        }
        return Ok(Redirect { scheme: None, host: None, port: None, path: full(&uri), status });
    }
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(wrong()),
    };
    let host = uri.host().filter(|_| uri.authority().is_some_and(|a| !a.as_str().contains('@')));
    let host = host.filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let port = uri.port_u16();
    Ok(Redirect { scheme: Some(scheme), host: Some(host.into()), port, path: full(&uri), status })
}

/// The status of a redirect.
pub(super) fn redirect_status(text: &str) -> Parsed<StatusCode> {
    match text {
        "301" => Ok(StatusCode::MOVED_PERMANENTLY),
        "302" => Ok(StatusCode::FOUND),
        "303" => Ok(StatusCode::SEE_OTHER),
        "307" => Ok(StatusCode::TEMPORARY_REDIRECT),
        "308" => Ok(StatusCode::PERMANENT_REDIRECT),
        _ => Err("use 301, 302, 303, 307 or 308".into()),
    }
}

/// A token of HTTP (RFC 9110 section 5.6.2), such as the name of a cookie.
pub(super) fn token(text: &str) -> Parsed<Box<str>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain);
    if fits { Ok(text.into()) } else { Err("use letters, digits, - and _".into()) }
}

/// The path of a cookie.
pub(super) fn cookie_path(text: &str) -> Parsed<Box<str>> {
    path(text)
        .and_then(|p| if p.contains([';', ',']) { Err("use a path without ; and ,".into()) } else { Ok(p) })
}

/// `SameSite`.
pub(super) fn same_site(text: &str) -> Parsed<SameSite> {
    match text {
        "Strict" => Ok(SameSite::Strict),
        "Lax" => Ok(SameSite::Lax),
        "None" => Ok(SameSite::None),
        _ => Err("use Strict, Lax or None".into()),
    }
}

/// The realm of basic authentication, as it stands between quotes.
pub(super) fn realm(text: &str) -> Parsed<Box<str>> {
    let plain =
        text.len() <= 200 && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\');
    if plain { Ok(text.into()) } else { Err("use plain text without quotes".into()) }
}

/// Adds to edits what two annotations say.
pub(super) fn edits(
    set: Option<Vec<(HeaderName, HeaderValue)>>,
    remove: Option<Vec<HeaderName>>,
) -> HeaderEdits {
    HeaderEdits { set: set.unwrap_or_default(), remove: remove.unwrap_or_default(), add: Vec::new() }
}
