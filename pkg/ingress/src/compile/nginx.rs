//! Annotations of ingress-nginx, with the meaning that its documentation gives them.

use super::options::{Options, Reader, ToHttps, Users, fill, put, sticky, usual_cors};
use super::rewrite::Rewrite;
use super::values as value;
use crate::route::{Protocol, Rate};
use http::{HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

/// `limit-burst-multiplier`, when it is not said.
const BURST: u32 = 5;
/// Headers that other origins may send, when nothing is said of them.
const CORS_HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,\
                            Authorization";
/// What keeps somebody out and is not there.
const GUARDS: [&str; 12] = [
    "auth-url",
    "auth-signin",
    "auth-tls-secret",
    "auth-tls-verify-client",
    "auth-tls-verify-depth",
    "auth-tls-pass-certificate-to-upstream",
    "auth-tls-match-cn",
    "enable-global-auth",
    "enable-modsecurity",
    "modsecurity-snippet",
    "enable-owasp-core-rules",
    "satisfy",
];
/// What would be text for another program.
const SNIPPETS: [&str; 4] = ["server-snippet", "configuration-snippet", "stream-snippet", "auth-snippet"];

pub(super) fn read(options: &mut Options, from: &mut Reader<'_>) {
    for name in GUARDS {
        from.foreign_guard(name, "Warren has nothing like it");
    }
    for name in SNIPPETS {
        // Whatever was written there may have been what kept others out.
        from.foreign_guard(name, "there is no nginx that could read it");
    }
    redirects(options, from);
    limits(options, from);
    users(options, from);
    cors(options, from);
    session(options, from);
    backend(options, from);
    // What Warren does anyway.
    streams(from);
}

fn redirects(options: &mut Options, from: &mut Reader<'_>) {
    let with_tls = from.take("ssl-redirect", value::boolean);
    let always = from.take("force-ssl-redirect", value::boolean);
    let to_https = match (always, with_tls) {
        (Some(true), _) => Some(ToHttps::Always),
        (_, Some(true)) => Some(ToHttps::WithTls),
        (_, Some(false)) => Some(ToHttps::Never),
        _ => None,
    };
    put(&mut options.to_https, to_https);
    let usual = [
        ("permanent-redirect", "permanent-redirect-code", StatusCode::MOVED_PERMANENTLY),
        ("temporal-redirect", "temporal-redirect-code", StatusCode::FOUND),
    ];
    for (name, code, usual) in usual {
        let code = from.take(code, value::redirect_status).unwrap_or(usual);
        fill(&mut options.redirect, from.take(name, |text| value::redirect(text, code)));
    }
    let root = |text: &str| value::path(text).and_then(|path| value::redirect(&path, StatusCode::FOUND));
    fill(&mut options.app_root, from.take("app-root", root));
    put(&mut options.regular, from.take("use-regex", value::boolean));
    fill(&mut options.rewrite, from.take("rewrite-target", Rewrite::target));
    // As there: paths of an Ingress that rewrites are regular expressions.
    options.regular |= matches!(options.rewrite, Some(Rewrite::Target(_)));
    put(&mut options.aliases, from.take("server-alias", value::hosts));
}

fn limits(options: &mut Options, from: &mut Reader<'_>) {
    let second = from.guard("limit-rps", value::positive).map(|n| (n, 1));
    let minute = from.guard("limit-rpm", value::positive).map(|n| (n, 60));
    let times = from.guard("limit-burst-multiplier", value::positive).unwrap_or(BURST);
    if let Some((requests, seconds)) = second.or(minute) {
        options.limits.rate = Some(Rate { requests, per: Duration::from_secs(seconds) });
        options.limits.burst = requests.saturating_mul(times);
    }
    fill(&mut options.limits.concurrent, from.guard("limit-connections", value::positive));
    for name in ["limit-whitelist", "limit-allowlist"] {
        put(&mut options.limits.exempt, from.take(name, value::ranges));
    }
    if let Some(limit) = from.guard("proxy-body-size", value::size) {
        options.body_limit = limit;
    }
    for name in ["whitelist-source-range", "allowlist-source-range"] {
        put(&mut options.sources.allow, from.guard(name, value::ranges));
    }
    put(&mut options.sources.deny, from.guard("denylist-source-range", value::ranges));
}

fn users(options: &mut Options, from: &mut Reader<'_>) {
    let basic = |text: &str| if text == "basic" { Ok(()) } else { Err("only basic is there".into()) };
    let file = |text: &str| if text == "auth-file" { Ok(()) } else { Err("only auth-file is there".into()) };
    let wanted = from.guard("auth-type", basic);
    from.guard("auth-secret-type", file);
    let secret = from.secret("auth-secret");
    let realm = from.take("auth-realm", value::realm);
    match (wanted, secret) {
        (Some(()), Some(secret)) => {
            options.users = Some(Users { secret, realm: realm.unwrap_or_default() });
        }
        // Somebody wanted a door here, and did not say whom it lets in.
        (Some(()), None) => from.shut = true,
        (None, _) => {}
    }
}

fn cors(options: &mut Options, from: &mut Reader<'_>) {
    let on = from.take("enable-cors", value::boolean);
    let mut cors = usual_cors();
    cors.headers = value::header_names(CORS_HEADERS).unwrap_or_default();
    cors.credentials = true;
    cors.max_age = Duration::from_secs(1_728_000);
    put(&mut cors.origins, from.guard("cors-allow-origin", value::origins));
    put(&mut cors.methods, from.take("cors-allow-methods", value::methods));
    put(&mut cors.headers, from.take("cors-allow-headers", value::header_names));
    put(&mut cors.expose, from.take("cors-expose-headers", value::header_names));
    put(&mut cors.credentials, from.take("cors-allow-credentials", value::boolean));
    put(&mut cors.max_age, from.take("cors-max-age", value::duration));
    if on == Some(true) {
        options.cors = Some(cors);
    }
}

fn session(options: &mut Options, from: &mut Reader<'_>) {
    let cookie = |text: &str| if text == "cookie" { Ok(()) } else { Err("only cookie is there".into()) };
    let wanted = from.take("affinity", cookie);
    let name = from.take("session-cookie-name", value::token);
    let max_age = from.take("session-cookie-max-age", value::duration);
    // For browsers that no longer exist; the other says the same.
    let expires = from.take("session-cookie-expires", value::duration);
    let mut session = sticky(name.unwrap_or_else(|| "INGRESSCOOKIE".into()), max_age.or(expires));
    put(&mut session.path, from.take("session-cookie-path", value::cookie_path));
    fill(&mut session.same_site, from.take("session-cookie-samesite", value::same_site));
    put(&mut session.secure, from.take("session-cookie-secure", value::boolean));
    let balanced = |text: &str| {
        if text == "balanced" {
            Ok(())
        } else {
            Err("clients move when their endpoint goes, and only then".into())
        }
    };
    from.take("affinity-mode", |text| if text == "persistent" { Ok(()) } else { balanced(text) });
    if wanted.is_some() {
        options.sticky = Some(session);
    }
}

fn backend(options: &mut Options, from: &mut Reader<'_>) {
    let protocol = |text: &str| match text.to_ascii_uppercase().as_str() {
        "HTTP" | "AUTO_HTTP" => Ok(Protocol::Http1),
        "GRPC" => Ok(Protocol::H2c),
        _ => Err("use HTTP or GRPC; TLS towards endpoints is not there".into()),
    };
    fill(&mut options.protocol, from.guard("backend-protocol", protocol));
    put(&mut options.timeouts.connect, from.take("proxy-connect-timeout", value::duration));
    put(&mut options.timeouts.send, from.take("proxy-send-timeout", value::duration));
    put(&mut options.timeouts.read, from.take("proxy-read-timeout", value::duration));
    fill(&mut options.host, from.take("upstream-vhost", value::authority));
    let prefix = |text: &str| Ok((HeaderName::from_static("x-forwarded-prefix"), value::header_value(text)?));
    let prefix: Option<(HeaderName, HeaderValue)> = from.take("x-forwarded-prefix", prefix);
    options.request_headers.set.extend(prefix);
}

/// Bodies are streamed both ways, over HTTP/1.1: who asks for that gets it.
fn streams(from: &mut Reader<'_>) {
    let off = |text: &str| if text == "off" { Ok(()) } else { Err("bodies are always streamed".into()) };
    from.take("proxy-buffering", off);
    from.take("proxy-request-buffering", off);
    let version = |text: &str| if text == "1.1" { Ok(()) } else { Err("it is always 1.1".into()) };
    from.take("proxy-http-version", version);
    if from.is_left("canary") {
        from.foreign_guard("canary", "requests are not divided among Ingresses");
    }
}
