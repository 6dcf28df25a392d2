//! What a line looks like.

use super::Format;
use crate::observe::Record;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Write as _;
use std::time::SystemTime;

/// Bytes of a text that are shown; clients may send much longer ones.
const LONGEST: usize = 2_048;

/// A line, with its end.
pub(super) fn format(format: Format, record: &Record<'_>, now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut line = String::with_capacity(256 + record.target.len().min(LONGEST));
    // Writing to a text does not fail.
    let _ = match format {
        Format::Common => common(&mut line, record, now),
        Format::Json => json(&mut line, record, now),
    };
    line.push('\n');
    line
}

fn common(line: &mut String, record: &Record<'_>, now: Timestamp) -> std::fmt::Result {
    let time = now.to_zoned(TimeZone::UTC);
    write!(line, "{} - - [{}] \"", record.client.to_canonical(), time.strftime("%d/%b/%Y:%H:%M:%S +0000"))?;
    escape(line, record.method.as_str().as_bytes(), "\\");
    line.push(' ');
    escape(line, record.target, "\\");
    write!(line, " {}\" {} {}", record.protocol, record.status, record.sent)
}

fn json(line: &mut String, record: &Record<'_>, now: Timestamp) -> std::fmt::Result {
    let text = |line: &mut String, name: &str, bytes: Option<&[u8]>| match bytes {
        None => write!(line, ",\"{name}\":null"),
        Some(bytes) => {
            write!(line, ",\"{name}\":\"")?;
            // The backslash of an escape is one of the text, so JSON doubles it.
            escape(line, bytes, "\\\\");
            line.write_char('"')
        }
    };
    write!(line, "{{\"time\":\"{now:.6}\",\"client\":\"{}\"", record.client.to_canonical())?;
    text(line, "method", Some(record.method.as_str().as_bytes()))?;
    text(line, "host", Some(record.host.as_bytes()))?;
    text(line, "path", Some(record.target))?;
    write!(
        line,
        ",\"protocol\":\"{}\",\"status\":{},\"bytes\":{}",
        record.protocol, record.status, record.sent
    )?;
    write!(line, ",\"duration\":{:.6}", record.took.as_secs_f64())?;
    text(line, "route", record.route.map(str::as_bytes))?;
    match record.endpoint {
        None => line.push_str(",\"endpoint\":null"),
        Some(endpoint) => write!(line, ",\"endpoint\":\"{endpoint}\"")?,
    }
    line.write_char('}')
}

/// Writes bytes that a client may have chosen, so that they can neither end a line nor a text in it: what is no printable
/// ASCII, a quote or a backslash becomes `\xHH`.
fn escape(line: &mut String, bytes: &[u8], backslash: &str) {
    let shown = bytes.get(..LONGEST).unwrap_or(bytes);
    for byte in shown {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                let _ = write!(line, "{backslash}x{byte:02X}");
            }
            _ => line.push(char::from(*byte)),
        }
    }
    if shown.len() < bytes.len() {
        line.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use proptest::prelude::*;
    use std::time::Duration;

    fn record(target: &[u8]) -> Record<'_> {
        Record {
            client: "::ffff:192.0.2.7".parse().unwrap(),
            method: &Method::POST,
            protocol: "HTTP/2.0",
            host: "foo.test",
            target,
            route: Some("shop/web foo.test /"),
            endpoint: Some(([10, 42, 0, 1], 8080).into()),
            status: 200,
            sent: 12,
            took: Duration::from_micros(1_500),
        }
    }

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_250)
    }

    #[test]
    fn common_lines_are_what_tools_know() {
        assert_eq!(
            format(Format::Common, &record(b"/a?b=c"), at()),
            "192.0.2.7 - - [15/Jan/2027:08:00:00 +0000] \"POST /a?b=c HTTP/2.0\" 200 12\n"
        );
    }

    #[test]
    fn json_lines_tell_everything() {
        assert_eq!(
            format(Format::Json, &record(b"/a?b=c"), at()),
            "{\"time\":\"2027-01-15T08:00:00.250000Z\",\"client\":\"192.0.2.7\",\"method\":\"POST\",\
             \"host\":\"foo.test\",\"path\":\"/a?b=c\",\"protocol\":\"HTTP/2.0\",\"status\":200,\"bytes\":12,\
             \"duration\":0.001500,\"route\":\"shop/web foo.test /\",\"endpoint\":\"10.42.0.1:8080\"}\n"
        );
        let nobody = Record { route: None, endpoint: None, ..record(b"/") };
        let line = format(Format::Json, &nobody, at());
        assert!(line.ends_with("\"route\":null,\"endpoint\":null}\n"), "{line}");
    }

    #[test]
    fn what_is_not_printable_is_escaped_and_long_texts_are_cut() {
        let line = format(Format::Common, &record(b"/\r\n1.2.3.4 \"\\x\xc3\xa4\x7f"), at());
        assert!(line.contains(" /\\x0D\\x0A1.2.3.4 \\x22\\x5Cx\\xC3\\xA4\\x7F HTTP/2.0\" "), "{line}");
        let long = vec![b'a'; 100_000];
        let line = format(Format::Json, &record(&long), at());
        assert!(line.contains("aaa...\"") && line.len() < 3_000, "{}", line.len());
    }

    proptest! {
        #[test]
        fn no_request_forges_a_line(target in prop::collection::vec(any::<u8>(), 0..200), host in "\\PC{0,20}") {
            let record = Record { host: &host, ..record(&target) };
            let common = format(Format::Common, &record, at());
            prop_assert!(common.ends_with(" HTTP/2.0\" 200 12\n"));
            prop_assert_eq!((common.matches('\n').count(), common.matches('"').count()), (1, 2));
            let json = format(Format::Json, &record, at());
            prop_assert_eq!(json.matches('\n').count(), 1);
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.as_object().unwrap().len(), 11);
            // What was asked can be read out again.
            let mut said = Vec::new();
            let mut rest = read["path"].as_str().unwrap().as_bytes();
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                if *first == b'\\' {
                    said.push(u8::from_str_radix(std::str::from_utf8(&after[1..3]).unwrap(), 16).unwrap());
                    rest = &after[3..];
                } else {
                    said.push(*first);
                }
            }
            prop_assert_eq!(said, target);
        }
    }
}
