//! A client of HTTP/1.1 that costs next to nothing: one buffer out, one write, one buffer in. The
//! generator shares its machine with what it measures, so what it does not spend is not missing
//! there.

use std::sync::Arc;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::transport::{ANSWER_BYTES_MAX, Answer, CONNECT_WAIT, Failure, Head};
use crate::base_url::BaseUrl;

/// Digits kept free for the length of a body that is written after its head.
const LENGTH_DIGITS: usize = 10;
/// Most header lines of an answer.
const HEADERS_MAX: usize = 64;
/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much is read at a time at least.
const READ_BYTES: usize = 16 * 1024;

/// One connection, opened when it is needed and again when it was lost.
#[derive(Debug)]
pub(crate) struct Http1 {
    base: Arc<BaseUrl>,
    stream: Option<TcpStream>,
    output: Vec<u8>,
    input: Vec<u8>,
    /// The body of a chunked answer, put together.
    joined: Vec<u8>,
}

impl Http1 {
    pub(crate) fn new(base: Arc<BaseUrl>) -> Self {
        Self {
            base,
            stream: None,
            output: Vec::new(),
            input: Vec::new(),
            joined: Vec::new(),
        }
    }

    pub(crate) async fn open(&mut self) -> Result<(), Failure> {
        // A server may have closed it while nothing was under way: then reading gives its end.
        // Whatever else there is to read belongs to no request.
        let alive = self.stream.as_ref().is_some_and(|stream| {
            let waiting = stream.try_read(&mut [0]);
            matches!(waiting, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        if alive {
            return Ok(());
        }
        self.stream = None;
        let stream = timeout(CONNECT_WAIT, TcpStream::connect(self.base.address()))
            .await
            .map_err(|_| Failure::Connect)?
            .map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        self.stream = Some(stream);
        Ok(())
    }

    pub(crate) async fn exchange(
        &mut self,
        head: &Head,
        fill: impl FnOnce(&mut Vec<u8>),
        deadline: Instant,
    ) -> Result<Answer<'_>, Failure> {
        write_request(head, fill, &mut self.output);
        // Taken, not borrowed: whatever breaks off below also closes the connection.
        let mut stream = self.stream.take().ok_or(Failure::Connect)?;
        let within = timeout_at(deadline, async {
            let sent = stream.write_all(&self.output).await;
            sent.map_err(|_| Failure::Closed)?;
            read_answer(&mut stream, &mut self.input, &mut self.joined).await
        });
        let read = within.await.map_err(|_| Failure::Timeout)??;
        if read.keep_alive {
            self.stream = Some(stream);
        }
        let body = match read.body {
            Place::Input(from, to) => &self.input[from..to],
            Place::Joined => &self.joined,
        };
        Ok(Answer {
            status: read.status,
            body,
        })
    }
}

fn write_request(head: &Head, fill: impl FnOnce(&mut Vec<u8>), to: &mut Vec<u8>) {
    to.clear();
    for part in [
        head.method.as_str().as_bytes(),
        b" ",
        head.target.as_bytes(),
        b" HTTP/1.1\r\nhost: ",
        head.base.authority().as_bytes(),
        b"\r\nauthorization: ",
        head.authorization.as_bytes(),
        b"\r\ncontent-type: ",
        head.content_type.as_bytes(),
        b"\r\ncontent-length: ",
    ] {
        to.extend_from_slice(part);
    }
    let length_at = to.len();
    // Spaces before a header's value are allowed (RFC 9112, 5).
    to.extend_from_slice(&[b' '; LENGTH_DIGITS]);
    to.extend_from_slice(b"\r\n\r\n");
    let body_at = to.len();
    fill(to);
    let mut rest = to.len() - body_at;
    for digit in to[length_at..length_at + LENGTH_DIGITS].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
}

struct Read {
    status: StatusCode,
    keep_alive: bool,
    body: Place,
}

enum Place {
    Input(usize, usize),
    Joined,
}

struct AnswerHead {
    status: StatusCode,
    keep_alive: bool,
    length: Length,
    /// Where the body begins.
    bytes: usize,
}

#[derive(Clone, Copy)]
enum Length {
    Known(usize),
    Chunked,
    UntilClose,
}

async fn read_answer(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    joined: &mut Vec<u8>,
) -> Result<Read, Failure> {
    input.clear();
    let head = loop {
        more(stream, input).await?;
        match parse_head(input)? {
            // 1xx is followed by the answer proper.
            Some(head) if head.status.is_informational() => {
                input.drain(..head.bytes);
                if let Some(head) = parse_head(input)? {
                    break head;
                }
            }
            Some(head) => break head,
            None if input.len() > HEAD_BYTES_MAX => return Err(Failure::Garbled),
            None => {}
        }
    };
    let mut keep_alive = head.keep_alive;
    let body = match head.length {
        Length::Known(length) if length > ANSWER_BYTES_MAX => return Err(Failure::Garbled),
        Length::Known(length) => {
            let end = head.bytes + length;
            while input.len() < end {
                more(stream, input).await?;
            }
            // More than was announced: nobody knows what it belongs to.
            keep_alive &= input.len() == end;
            Place::Input(head.bytes, end)
        }
        Length::Chunked => {
            joined.clear();
            let mut at = head.bytes;
            loop {
                match join_chunk(input, &mut at, joined)? {
                    Chunk::Last => break,
                    Chunk::Joined => {}
                    Chunk::Missing => more(stream, input).await?,
                }
            }
            keep_alive &= input.len() == at;
            Place::Joined
        }
        Length::UntilClose => {
            while more_or_end(stream, input).await? {}
            keep_alive = false;
            Place::Input(head.bytes, input.len())
        }
    };
    Ok(Read {
        status: head.status,
        keep_alive,
        body,
    })
}

async fn more(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<(), Failure> {
    if more_or_end(stream, input).await? {
        return Ok(());
    }
    Err(Failure::Closed)
}

async fn more_or_end(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<bool, Failure> {
    if input.len() > HEAD_BYTES_MAX + ANSWER_BYTES_MAX {
        return Err(Failure::Garbled);
    }
    input.reserve(READ_BYTES);
    let read = stream.read_buf(input).await.map_err(|_| Failure::Closed)?;
    Ok(read > 0)
}

fn parse_head(input: &[u8]) -> Result<Option<AnswerHead>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Garbled),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Failure::Garbled)?;
    let mut keep_alive = response.version == Some(1);
    let mut length = Length::UntilClose;
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            // Chunked wins over a length (RFC 9112, 6.3).
            if !matches!(length, Length::Chunked) {
                length = Length::Known(value.parse().map_err(|_| Failure::Garbled)?);
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            length = Length::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection")
            && value.eq_ignore_ascii_case("close")
        {
            keep_alive = false;
        }
    }
    if status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        length = Length::Known(0);
    }
    Ok(Some(AnswerHead {
        status,
        keep_alive,
        length,
        bytes,
    }))
}

enum Chunk {
    /// One more is in `joined`.
    Joined,
    /// That was all, trailers included.
    Last,
    /// Not all of it has arrived.
    Missing,
}

/// Takes the chunk that begins at `at`, which moves behind it.
fn join_chunk(input: &[u8], at: &mut usize, joined: &mut Vec<u8>) -> Result<Chunk, Failure> {
    let (size_bytes, size) = match httparse::parse_chunk_size(&input[*at..]) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(Chunk::Missing),
        Err(_) => return Err(Failure::Garbled),
    };
    let size = usize::try_from(size).map_err(|_| Failure::Garbled)?;
    let from = *at + size_bytes;
    if size == 0 {
        // Trailers, if any, and the empty line behind them.
        let rest = &input[from..];
        let end = if rest.starts_with(b"\r\n") {
            Some(2)
        } else {
            let behind = rest.windows(4).position(|it| it == b"\r\n\r\n");
            behind.map(|position| position + 4)
        };
        return Ok(match end {
            Some(end) => {
                *at = from + end;
                Chunk::Last
            }
            None => Chunk::Missing,
        });
    }
    if joined.len() + size > ANSWER_BYTES_MAX {
        return Err(Failure::Garbled);
    }
    let Some(chunk) = input.get(from..from + size + 2) else {
        return Ok(Chunk::Missing);
    };
    if !chunk.ends_with(b"\r\n") {
        return Err(Failure::Garbled);
    }
    joined.extend_from_slice(&chunk[..size]);
    *at = from + size + 2;
    Ok(Chunk::Joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;
    use std::time::Duration;
    use tokio::net::TcpListener;

    fn head(base: &Arc<BaseUrl>) -> Head {
        Head {
            base: Arc::clone(base),
            method: http::Method::POST,
            target: "/v1/rides".into(),
            authorization: HeaderValue::from_static("Bearer k"),
            content_type: "application/json",
        }
    }

    /// A server that gives each answer to one request, a new connection for each list.
    async fn server(connections: Vec<Vec<Vec<&'static str>>>) -> Arc<BaseUrl> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answers in connections {
                let mut stream = listener.accept().await.unwrap().0;
                for parts in answers {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n{}") {
                        assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                    }
                    let text = String::from_utf8(request).unwrap();
                    assert!(text.contains("content-length:          2\r\n"), "{text}");
                    for part in parts {
                        stream.write_all(part.as_bytes()).await.unwrap();
                        stream.flush().await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        Arc::new(format!("http://{address}").parse().unwrap())
    }

    async fn ask(http: &mut Http1, base: &Arc<BaseUrl>) -> Result<(u16, String), Failure> {
        http.open().await?;
        let deadline = Instant::now() + Duration::from_millis(500);
        let fill = |body: &mut Vec<u8>| body.extend_from_slice(b"{}");
        let answer = http.exchange(&head(base), fill, deadline).await?;
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        Ok((answer.status.as_u16(), body))
    }

    #[tokio::test]
    async fn answers_are_read_however_they_are_framed_and_cut() {
        let base = server(vec![
            vec![
                vec!["HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\nabc"],
                vec!["HTTP/1.1 422 X\r\ncontent-le", "ngth: 4\r\n\r\na", "bcd"],
                vec![
                    "HTTP/1.1 202 A\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1",
                    "0\r\n0123456789abcdef\r\n0\r",
                    "\n\r\n",
                ],
                vec!["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n"],
                vec!["HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the ", "end"],
            ],
            vec![vec!["HTTP/1.1 202 A\r\ncontent-length: 0\r\n\r\n"]],
        ])
        .await;
        let mut http = Http1::new(Arc::clone(&base));
        for (status, body) in [
            (202, "abc"),
            (422, "abcd"),
            (202, "ab0123456789abcdef"),
            (204, ""),
            (200, "to the end"),
            (202, ""),
        ] {
            let got = ask(&mut http, &base).await.unwrap();
            assert_eq!(got, (status, body.to_owned()));
        }
    }

    #[tokio::test]
    async fn what_breaks_off_says_how() {
        let base = server(vec![
            vec![vec!["HTTP/1.1 202 A\r\ncontent-length: 9\r\n\r\nabc"]],
            vec![vec!["garbage\r\n\r\n"]],
            vec![vec![
                "HTTP/1.1 202 A\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            ]],
            // The next connection is never accepted: the server is gone by then.
            vec![vec![], vec![]],
        ])
        .await;
        let mut http = Http1::new(Arc::clone(&base));
        assert_eq!(ask(&mut http, &base).await, Err(Failure::Closed));
        assert_eq!(ask(&mut http, &base).await, Err(Failure::Garbled));
        assert_eq!(ask(&mut http, &base).await, Err(Failure::Garbled));
        assert_eq!(ask(&mut http, &base).await, Err(Failure::Timeout));
        let nobody = Arc::new("http://127.0.0.1:1".parse().unwrap());
        let mut http = Http1::new(Arc::clone(&nobody));
        assert_eq!(ask(&mut http, &nobody).await, Err(Failure::Connect));
    }
}
