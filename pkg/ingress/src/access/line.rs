//! What a line looks like.

use super::Format;
use crate::observe::Record;
use crate::text;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

/// Bytes of a text that are shown; clients may send much longer ones.
const LONGEST: usize = 2_048;

/// The time of a line up to the second, which many lines share.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    /// Since 1970; none was made yet otherwise.
    second: Option<u64>,
    text: String,
}

impl Stamp {
    /// The text of a second, made when it is not the one from before.
    fn of(&mut self, second: u64, format: Format) -> &[u8] {
        if self.second != Some(second) {
            let time =
                Timestamp::from_second(second as i64).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC);
            let form = match format {
                Format::Common => "%d/%b/%Y:%H:%M:%S +0000",
                Format::Json => "%Y-%m-%dT%H:%M:%S",
            };
            self.text = time.strftime(form).to_string();
            self.second = Some(second);
        }
        self.text.as_bytes()
    }
}

impl Format {
    /// Adds a line, with its end.
    pub(super) fn line(self, line: &mut Vec<u8>, stamp: &mut Stamp, record: &Record<'_>, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = stamp.of(now.as_secs(), self);
        match self {
            Self::Common => common(line, record, time),
            Self::Json => json(line, record, time, now.subsec_micros()),
        }
        line.push(b'\n');
    }
}

fn common(line: &mut Vec<u8>, record: &Record<'_>, time: &[u8]) {
    text::address(line, record.client.to_canonical());
    line.extend_from_slice(b" - - [");
    line.extend_from_slice(time);
    line.extend_from_slice(b"] \"");
    escape(line, record.method.as_str().as_bytes(), b"\\");
    line.push(b' ');
    escape(line, record.target, b"\\");
    line.push(b' ');
    line.extend_from_slice(record.protocol.as_bytes());
    line.extend_from_slice(b"\" ");
    text::number(line, record.status.into());
    line.push(b' ');
    text::number(line, record.sent);
}

fn json(line: &mut Vec<u8>, record: &Record<'_>, time: &[u8], micros: u32) {
    let quoted = |line: &mut Vec<u8>, name: &str, bytes: Option<&[u8]>| {
        line.extend_from_slice(name.as_bytes());
        match bytes {
            None => line.extend_from_slice(b"null"),
            Some(bytes) => {
                line.push(b'"');
                // The backslash of an escape is one of the text, so JSON doubles it.
                escape(line, bytes, b"\\\\");
                line.push(b'"');
            }
        }
    };
    line.extend_from_slice(b"{\"time\":\"");
    line.extend_from_slice(time);
    line.push(b'.');
    text::padded(line, micros.into(), 6);
    line.extend_from_slice(b"Z\",\"client\":\"");
    text::address(line, record.client.to_canonical());
    quoted(line, "\",\"method\":", Some(record.method.as_str().as_bytes()));
    quoted(line, ",\"host\":", Some(record.host.as_bytes()));
    quoted(line, ",\"path\":", Some(record.target));
    line.extend_from_slice(b",\"protocol\":\"");
    line.extend_from_slice(record.protocol.as_bytes());
    line.extend_from_slice(b"\",\"status\":");
    text::number(line, record.status.into());
    line.extend_from_slice(b",\"bytes\":");
    text::number(line, record.sent);
    line.extend_from_slice(b",\"duration\":");
    // To the nearest microsecond.
    let took = record.took.saturating_add(Duration::from_nanos(500));
    text::number(line, took.as_secs());
    line.push(b'.');
    text::padded(line, took.subsec_micros().into(), 6);
    quoted(line, ",\"route\":", record.route.map(str::as_bytes));
    // Writing to memory does not fail.
    let _ = match record.endpoint {
        None => write!(line, ",\"endpoint\":null}}"),
        Some(endpoint) => write!(line, ",\"endpoint\":\"{endpoint}\"}}"),
    };
}

/// Writes bytes that a client may have chosen, so that they can neither end a line nor a text in it: what is no printable
/// ASCII, a quote or a backslash becomes `\xHH`.
fn escape(line: &mut Vec<u8>, bytes: &[u8], backslash: &[u8]) {
    let mut shown = bytes.get(..LONGEST).unwrap_or(bytes);
    let is_odd = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x7f..);
    while let Some(at) = shown.iter().position(is_odd) {
        line.extend_from_slice(&shown[..at]);
        line.extend_from_slice(backslash);
        // Writing to memory does not fail.
        let _ = write!(line, "x{:02X}", shown[at]);
        shown = &shown[at + 1..];
    }
    line.extend_from_slice(shown);
    if bytes.len() > LONGEST {
        line.extend_from_slice(b"...");
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

    fn format(format: Format, record: &Record<'_>, now: SystemTime) -> String {
        let mut line = Vec::new();
        format.line(&mut line, &mut Stamp::default(), record, now);
        String::from_utf8(line).unwrap()
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
    fn each_line_has_the_time_of_its_own() {
        let (mut stamp, mut common, mut json) = (Stamp::default(), Vec::new(), Vec::new());
        for millis in [0, 999, 1_000, 500, 86_400_000] {
            let now = at() + Duration::from_millis(millis);
            Format::Common.line(&mut common, &mut stamp, &record(b"/"), now);
        }
        let mut stamp = Stamp::default();
        for micros in [0, 1, 749_999, 750_000] {
            Format::Json.line(&mut json, &mut stamp, &record(b"/"), at() + Duration::from_micros(micros));
        }
        let cut = |lines: &[u8], from: usize, to: usize| -> Vec<String> {
            let lines = std::str::from_utf8(lines).unwrap().lines();
            lines.map(|line| line[from..to].to_owned()).collect()
        };
        assert_eq!(cut(&common, 15, 35)[4], "16/Jan/2027:08:00:00");
        assert_eq!(cut(&common, 33, 35), ["00", "01", "01", "00", "00"]);
        assert_eq!(cut(&json, 26, 36), ["00.250000Z", "00.250001Z", "00.999999Z", "01.000000Z"]);
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
