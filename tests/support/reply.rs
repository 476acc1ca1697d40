//! Answers, which the handlers create, faults change, and [`send`] sends.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

use super::fault::{Action, Canned};
use super::gate::Allowance;
use super::log::Ticket;
use super::store::Content;
use super::wire::{Control, End};

/// An answer before it is sent.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Content,
    /// First byte of `body` that is sent.
    pub start: u64,
    pub end: u64,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let body = Content::Memory(body.into());
        Self {
            status,
            headers: Vec::new(),
            start: 0,
            end: body.len(),
            body,
        }
    }

    /// Returns an empty answer.
    pub fn status(status: u16) -> Self {
        Self::new(status, Bytes::new())
    }

    /// Returns an answer with the error body of registries.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Canned::error(status, code, message).into()
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, Some(value.into()));
        self
    }

    /// Replaces a header; `None` removes the header.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        if let Some(value) = value {
            self.headers.push((name.to_owned(), value));
        }
    }
}

impl From<Canned> for Reply {
    fn from(canned: Canned) -> Self {
        Self {
            headers: canned.headers,
            ..Self::new(canned.status, canned.body)
        }
    }
}

/// The way in which the body is sent.
#[derive(Debug, Default)]
struct Delivery {
    length_delta: i64,
    chunked: bool,
    overrun: usize,
    cut: Option<(u64, End)>,
    allowance: Option<Allowance>,
    drip: Option<(usize, Duration)>,
    flips: Vec<u64>,
}

/// Applies the faults to an answer, and turns the answer into an HTTP response.
pub fn send(
    mut reply: Reply,
    faults: &[Action],
    head: bool,
    bandwidth: Option<u64>,
    control: &Control,
    ticket: Ticket,
) -> Response {
    let mut delivery = Delivery::default();
    for fault in faults {
        match fault {
            Action::Status(status) => reply.status = *status,
            Action::Header(name, value) => reply.set(name, value.clone()),
            Action::Body(bytes) => {
                reply.body = Content::Memory(bytes.clone().into());
                (reply.start, reply.end) = (0, bytes.len() as u64);
            }
            Action::ContentLength(delta) => delivery.length_delta = *delta,
            Action::Chunked => delivery.chunked = true,
            Action::Overrun(extra) => delivery.overrun = *extra,
            Action::Cut(after, end) => delivery.cut = Some((*after, *end)),
            Action::Allow(allowance) => delivery.allowance = Some(allowance.clone()),
            Action::Drip(size, pause) => delivery.drip = Some((*size, *pause)),
            Action::FlipBit(offset) => delivery.flips.push(*offset),
            _ => {}
        }
    }
    let length = reply.end - reply.start;
    // 204 and 304 have neither a body nor a length. The length of a pretended blob is unknown.
    let pretended = head && length == 0 && faults.iter().any(|f| matches!(f, Action::PretendPresent));
    let has_length = !delivery.chunked && !pretended && !matches!(reply.status, 204 | 304);
    if has_length
        && !reply
            .headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case("content-length"))
    {
        let told = i128::from(length) + i128::from(delivery.length_delta);
        reply
            .headers
            .push(("content-length".to_owned(), told.max(0).to_string()));
    }
    ticket.update(|e| e.status = reply.status);
    if delivery.overrun > 0 && !head {
        let mut bytes = format!("HTTP/1.1 {} OK\r\n", reply.status).into_bytes();
        for (name, value) in &reply.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&reply.body.read(reply.start, reply.end));
        bytes.extend(std::iter::repeat_n(b'x', delivery.overrun));
        ticket.update(|e| e.bytes_out = length + delivery.overrun as u64);
        control.write_instead(bytes, End::Close);
        return Response::new(Body::empty());
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let body = if pretended || (head && delivery.chunked) {
        // The body is a stream, since the HTTP library would add the length of an empty body.
        Body::from_stream(stream::empty::<Result<Bytes, std::io::Error>>())
    } else if head {
        Body::empty()
    } else {
        stream_body(reply, delivery, bandwidth, control.clone(), ticket)
    };
    response
        .body(body)
        .expect("a fault rule has a header that HTTP does not allow")
}

fn stream_body(reply: Reply, delivery: Delivery, bandwidth: Option<u64>, control: Control, ticket: Ticket) -> Body {
    let Reply { body, start, end, .. } = reply;
    if end == start && delivery.cut.is_none() && !delivery.chunked && delivery.length_delta == 0 {
        return Body::empty();
    }
    let stop = delivery.cut.map_or(end, |(after, _)| end.min(start + after));
    let step = delivery.drip.map_or(64 << 10, |(size, _)| size as u64);
    Body::from_stream(stream::unfold(start, move |at| {
        let (body, control, ticket, flips) = (body.clone(), control.clone(), ticket.clone(), delivery.flips.clone());
        let (cut, drip, allowance) = (delivery.cut, delivery.drip, delivery.allowance.clone());
        async move {
            if at >= stop {
                let (_, how) = cut.filter(|_| stop < end || end == start)?;
                control.end_after_flush(how);
                // The connection ends as soon as the written bytes are flushed, so this stream must not end by itself.
                return std::future::pending().await;
            }
            let mut next = stop.min(at + step);
            if let Some(allowance) = allowance {
                next = at + allowance.take(next - at).await;
            }
            let pause = match (drip, bandwidth) {
                (Some((_, pause)), _) if at > start => pause,
                (_, Some(rate)) => Duration::from_secs_f64((next - at) as f64 / rate as f64),
                _ => Duration::ZERO,
            };
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let mut bytes = body.read(at, next);
            if flips.iter().any(|f| (at..next).contains(f)) {
                let mut changed = bytes.to_vec();
                for flip in flips.iter().filter(|f| (at..next).contains(f)) {
                    changed[(flip - at) as usize] ^= 1;
                }
                bytes = changed.into();
            }
            ticket.update(|e| e.bytes_out += next - at);
            if next == stop && cut.is_none() {
                ticket.end();
            }
            Some((Ok::<_, std::io::Error>(bytes), next))
        }
    }))
}
