//! Where answers go: a connection of HTTP/1, or a stream of HTTP/2.

use crate::decide::Answer;
use crate::error::Broken;
use crate::fields::{Fields, Known};
use crate::h1::head::{Framing, Response, Version};
use crate::h1::io::Writer;
use crate::message::{Sink, header_map};
use crate::text;
use crate::websocket;
use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{Method, StatusCode};
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::timeout;

/// Where an answer goes.
pub(crate) enum Front<'a> {
    H1(H1Front<'a>),
    H2(H2Front<'a>),
}

/// A connection of HTTP/1 to a client.
pub(crate) struct H1Front<'a> {
    pub(crate) writer: &'a mut Writer,
    pub(crate) version: Version,
    /// Whether the connection may carry another request.
    pub(crate) keep: &'a mut bool,
    pub(crate) patience: Duration,
    /// Whether an answer was begun.
    pub(crate) begun: bool,
}

/// A stream of HTTP/2 to a client.
pub(crate) struct H2Front<'a> {
    pub(crate) send: &'a mut SendResponse<Bytes>,
    pub(crate) patience: Duration,
    /// Whether an answer was begun.
    pub(crate) begun: bool,
}

impl Front<'_> {
    /// Whether an answer was begun, so that no other can be given.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::H1(front) => front.begun,
            Self::H2(front) => front.begun,
        }
    }

    /// Tells a client that waits for it to send its body.
    pub(crate) async fn go_on(&mut self) -> Result<(), Broken> {
        match self {
            Self::H1(front) => {
                front.writer.buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                timeout(front.patience, front.writer.flush()).await.map_err(|_| Broken::Slow)??;
            }
            Self::H2(front) => {
                let mut answer = http::Response::new(());
                *answer.status_mut() = StatusCode::CONTINUE;
                front.send.send_informational(answer)?;
            }
        }
        Ok(())
    }

    /// Writes the head of an answer, and says where its body goes. `framing` is how it came.
    pub(crate) fn head(
        &mut self,
        method: &Method,
        response: &Response,
        framing: Framing,
    ) -> Result<Sink<'_>, Broken> {
        let bodiless = *method == Method::HEAD || matches!(response.status, 204 | 304);
        match self {
            Self::H1(front) => {
                front.begun = true;
                let framing = match framing {
                    _ if bodiless => Framing::NONE,
                    Framing::Length(_) => framing,
                    _ if front.version == Version::V11 => Framing::Chunked,
                    _ => Framing::Close,
                };
                *front.keep &= framing != Framing::Close;
                let closes = !*front.keep;
                let buffer = front.writer.buffer();
                write_status(buffer, response.status);
                match framing {
                    Framing::Chunked => buffer.extend_from_slice(b"transfer-encoding: chunked\r\n"),
                    // An empty body of HTTP/2 may say no length.
                    Framing::Length(length)
                        if !bodiless && response.fields.values(Known::ContentLength).next().is_none() =>
                    {
                        text::content_length(buffer, length);
                    }
                    _ => {}
                }
                match (closes, front.version) {
                    (true, _) => buffer.extend_from_slice(b"connection: close\r\n"),
                    (false, Version::V10) => buffer.extend_from_slice(b"connection: keep-alive\r\n"),
                    _ => {}
                }
                response.fields.write(buffer);
                Ok(Sink::H1 { writer: front.writer, framing, patience: front.patience })
            }
            Self::H2(front) => {
                front.begun = true;
                let mut answer = http::Response::new(());
                *answer.status_mut() =
                    StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY);
                *answer.headers_mut() = header_map(&response.fields);
                let empty = bodiless || framing == Framing::NONE;
                let stream = front.send.send_response(answer, empty)?;
                let left = match framing {
                    Framing::Length(length) => Some(length),
                    Framing::Chunked | Framing::Close => None,
                };
                Ok(if empty { Sink::Nowhere } else { Sink::H2 { stream, patience: front.patience, left } })
            }
        }
    }

    /// Answers by a status and a line of text.
    pub(crate) async fn answer(&mut self, method: &Method, answer: Answer) -> Result<u64, Broken> {
        let status = answer.status;
        let mut response = Response { status: status.as_u16(), fields: answer.fields, version: Version::V11 };
        let mut body = String::new();
        if !status.is_informational()
            && status != StatusCode::NO_CONTENT
            && status != StatusCode::NOT_MODIFIED
        {
            body = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
            response.fields.push(b"content-type", b"text/plain; charset=utf-8");
            response.fields.push(b"content-length", body.len().to_string().as_bytes());
        }
        let mut sink = self.head(method, &response, Framing::Length(body.len() as u64))?;
        if !matches!(sink, Sink::Nowhere) && *method != Method::HEAD && !body.is_empty() {
            sink.whole(body.as_bytes()).await?;
        }
        sink.flush().await?;
        Ok(body.len() as u64)
    }

    /// Tells a client that the backend speaks its protocol from now on. On HTTP/2 that goes on on the stream.
    pub(crate) async fn switch(&mut self, fields: &Fields) -> Result<Option<SendStream<Bytes>>, Broken> {
        match self {
            Self::H1(front) => front.switch(fields).await.map(|()| None),
            Self::H2(front) => {
                front.begun = true;
                let mut kept = fields.clone();
                websocket::strip(&mut kept);
                let mut answer = http::Response::new(());
                *answer.headers_mut() = header_map(&kept);
                Ok(Some(front.send.send_response(answer, false)?))
            }
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Self::H1(front) = self {
            *front.keep = false;
        }
    }

    /// Returns when the client takes its request back.
    pub(crate) async fn taken_back(&mut self) {
        match self {
            Self::H1(_) => std::future::pending().await,
            Self::H2(front) => {
                let _ = poll_fn(|cx| front.send.poll_reset(cx)).await;
            }
        }
    }
}

/// The first line of an answer.
pub(crate) fn write_status(buffer: &mut Vec<u8>, status: u16) {
    if status == 200 {
        buffer.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    buffer.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default()).as_bytes());
}

impl H1Front<'_> {
    async fn switch(&mut self, fields: &Fields) -> Result<(), Broken> {
        self.begun = true;
        let buffer = self.writer.buffer();
        write_status(buffer, 101);
        buffer.extend_from_slice(b"connection: upgrade\r\n");
        let mut kept = fields.clone();
        let protocol = fields.get("upgrade").unwrap_or_default().to_vec();
        kept.remove_hop_by_hop();
        kept.push(b"upgrade", &protocol);
        kept.write(buffer);
        Ok(timeout(self.patience, self.writer.flush()).await.map_err(|_| Broken::Slow)??)
    }
}
