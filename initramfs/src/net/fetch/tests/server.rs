//! An HTTP server that answers each request as a script says, and well once
//! the script is over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use proptest::prelude::*;

/// How one request is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    Good,
    /// The connection ends after so many bytes of the body.
    CutAt(usize),
    /// The byte of the file at this place is another one.
    Flip(usize),
    /// The whole file, whatever was asked for.
    NoRanges,
    /// To the same file, by another name.
    Redirect,
    Status(&'static str),
    /// No HTTP at all.
    Nonsense,
    /// Not a byte.
    Close,
    /// A part that nobody asked for.
    OtherRange,
}

impl Arbitrary for Turn {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        prop_oneof![
            Just(Self::Good),
            (0_usize..600_000).prop_map(Self::CutAt),
            (0_usize..600_000).prop_map(Self::Flip),
            Just(Self::NoRanges),
            Just(Self::Redirect),
            Just(Self::Status("500 Internal Server Error")),
            Just(Self::Nonsense),
            Just(Self::Close),
            Just(Self::OtherRange),
        ]
        .boxed()
    }
}

/// A server on the loopback; its thread ends with the test program.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(file: Vec<u8>, script: Vec<Turn>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            let mut script = script.into_iter();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                // Whatever goes wrong with one connection, the next one counts.
                while let Some(head) = head(&mut reader) {
                    seen.lock().unwrap().push(head.to_ascii_lowercase());
                    let turn = script.next().unwrap_or(Turn::Good);
                    if answer(&stream, &file, &head, turn).is_none() {
                        break;
                    }
                }
            }
        });
        Self { address, heads }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/root.img", self.address)
    }

    /// The heads of all requests so far, in small letters.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn head(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// Answers; `None` if the connection is over with it.
fn answer(mut stream: &TcpStream, file: &[u8], head: &str, turn: Turn) -> Option<()> {
    let asked = range(head);
    let (first, last) = match turn {
        Turn::OtherRange => (asked?.0 + 1, asked?.1),
        _ => asked?,
    };
    let ranged = match turn {
        Turn::Status(status) => {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            return stream.write_all(head.as_bytes()).ok();
        }
        Turn::Redirect => {
            let head = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(head.as_bytes()).ok();
        }
        Turn::Nonsense => {
            let _ = stream.write_all(b"\x7fELF nonsense\r\n\r\n");
            return None;
        }
        Turn::Close => return None,
        Turn::NoRanges => None,
        _ if first >= file.len() => {
            let head = format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\n\
                 Content-Length: 0\r\n\r\n",
                file.len()
            );
            return stream.write_all(head.as_bytes()).ok();
        }
        _ => Some(first..=last.min(file.len() - 1)),
    };
    let (head, mut body) = match &ranged {
        None => ("HTTP/1.1 200 OK\r\n".to_owned(), file.to_vec()),
        Some(range) => (
            format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{}\r\n",
                range.start(),
                range.end(),
                file.len()
            ),
            file[range.clone()].to_vec(),
        ),
    };
    if let Turn::Flip(at) = turn
        && let Some(byte) = body.get_mut(at.wrapping_sub(first))
    {
        *byte ^= 1;
    }
    let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    if let Turn::CutAt(length) = turn
        && length < body.len()
    {
        let _ = stream.write_all(&body[..length]);
        return None;
    }
    stream.write_all(&body).ok()
}

/// First and last byte that were asked for.
fn range(head: &str) -> Option<(usize, usize)> {
    let line = head
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("range: bytes="))?;
    let (first, last) = line.split_once('=')?.1.split_once('-')?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
}
