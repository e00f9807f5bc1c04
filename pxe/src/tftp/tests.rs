use std::io::ErrorKind;
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::interface::Interface;

const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// A client that is free to misbehave.
struct Client {
    socket: UdpSocket,
    /// Where the transfer comes from; a new port for each.
    peer: SocketAddr,
}

impl Client {
    fn ask(server: SocketAddr, code: u16, words: &[&str]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut packet = code.to_be_bytes().to_vec();
        for word in words {
            packet.extend(word.as_bytes());
            packet.push(0);
        }
        socket.send_to(&packet, server).unwrap();
        Self {
            socket,
            peer: server,
        }
    }

    fn receive(&mut self) -> (u16, Vec<u8>) {
        let mut packet = [0; 2048];
        let (length, peer) = self.socket.recv_from(&mut packet).unwrap();
        self.peer = peer;
        let code = u16::from_be_bytes([packet[0], packet[1]]);
        (code, packet[2..length].to_vec())
    }

    fn acknowledge(&self, block: u16) {
        let packet = [ACK.to_be_bytes(), block.to_be_bytes()].concat();
        self.socket.send_to(&packet, self.peer).unwrap();
    }

    /// The rest of a transfer, each window acknowledged.
    fn fetch(&mut self, size: usize, window: u16) -> Vec<u8> {
        let mut content = Vec::new();
        for next in 1_u16.. {
            let (code, rest) = self.receive();
            assert_eq!(code, DATA);
            assert_eq!(u16::from_be_bytes([rest[0], rest[1]]), next);
            content.extend_from_slice(&rest[2..]);
            let last = rest.len() - 2 < size;
            if last || next % window == 0 {
                self.acknowledge(next);
            }
            if last {
                break;
            }
        }
        content
    }
}

/// Options and values, each with a space behind it.
fn spaced(options: Vec<u8>) -> String {
    String::from_utf8(options).unwrap().replace('\0', " ")
}

struct Served {
    address: SocketAddr,
    content: Vec<u8>,
    seen: Arc<Mutex<Vec<(String, u64, u64)>>>,
}

fn served() -> Served {
    served_to("127.0.0.0/8", &[])
}

/// Serves hosts of the network `near`, and of those in `far`.
fn served_to(near: &str, far: &[&str]) -> Served {
    let audience = Audience {
        near: Interface {
            name: "lo".into(),
            address: "127.0.0.1".parse().unwrap(),
            network: near.parse().unwrap(),
        },
        far: far.iter().map(|network| network.parse().unwrap()).collect(),
    };
    let content: Vec<u8> = (0..=250).cycle().take(100_000).collect();
    let files = Files::from([("undionly.kpxe".to_owned(), Bytes::from(content.clone()))]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let progress: Progress = Arc::new(move |_, name, at, size| {
        note.lock().unwrap().push((name.to_owned(), at, size));
    });
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(serve(socket, files, audience, progress))
    });
    Served {
        address,
        content,
        seen,
    }
}

#[test]
fn a_first_stage_comes_with_the_options_that_firmware_asks_for() {
    let served = served();
    let words = [
        "undionly.kpxe",
        "octet",
        "tsize",
        "0",
        "blksize",
        "1468",
        "windowsize",
        "4",
    ];
    let mut client = Client::ask(served.address, 1, &words);
    let (code, options) = client.receive();
    assert_eq!(code, OACK);
    let options = spaced(options);
    for expected in ["tsize 100000 ", "blksize 1468 ", "windowsize 4 "] {
        assert!(options.contains(expected), "{options:?}");
    }
    client.acknowledge(0);
    assert!(client.fetch(1468, 4) == served.content);
    let seen = served.seen.lock().unwrap();
    assert_eq!(seen.first().unwrap(), &("undionly.kpxe".into(), 0, 100_000));
    assert_eq!(seen.last().unwrap().1, 100_000);
}

#[test]
fn a_client_without_options_is_served_too() {
    let served = served();
    let mut client = Client::ask(served.address, 1, &["/undionly.kpxe", "octet"]);
    assert!(client.fetch(512, 1) == served.content);
}

#[test]
fn a_lost_packet_is_sent_again() {
    let served = served();
    let mut client = Client::ask(served.address, 1, &["undionly.kpxe", "octet"]);
    let first = client.receive();
    // It counts as lost: nothing acknowledges it.
    assert_eq!(client.receive(), first);
    client.acknowledge(1);
    let (_, second) = client.receive();
    assert_eq!(second[..2], [0, 2]);
}

#[test]
fn no_block_or_window_is_larger_than_the_bounds() {
    let served = served();
    let words = [
        "undionly.kpxe",
        "octet",
        "blksize",
        "65464",
        "windowsize",
        "60000",
    ];
    let mut client = Client::ask(served.address, 1, &words);
    let options = spaced(client.receive().1);
    assert!(options.contains("blksize 1468 ") && options.contains("windowsize 16 "));
}

#[test]
fn other_names_and_writing_are_refused() {
    let served = served();
    for name in ["../undionly.kpxe", "/etc/passwd", "site.toml", ""] {
        let mut client = Client::ask(served.address, 1, &[name, "octet"]);
        let (code, rest) = client.receive();
        assert_eq!((code, &rest[..2]), (ERROR, &[0, 1][..]), "{name}");
    }
    let mut client = Client::ask(served.address, 2, &["undionly.kpxe", "octet"]);
    let (code, rest) = client.receive();
    assert_eq!((code, &rest[..2]), (ERROR, &[0, 2][..]));
}

#[test]
fn broken_packets_get_no_answer() {
    let served = served();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    for packet in [
        &b""[..],
        b"\0",
        b"\0\x01",
        b"\0\x01name",
        b"\xff\xff\xff\xff",
    ] {
        socket.send_to(packet, served.address).unwrap();
    }
    // The server has read them when it serves what came after them.
    let mut client = Client::ask(served.address, 1, &["undionly.kpxe", "octet"]);
    assert_eq!(client.receive().0, DATA);
    let nothing = socket.recv_from(&mut [0; 64]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

#[test]
fn hosts_of_other_networks_get_nothing_unless_those_are_named() {
    let request = ["undionly.kpxe", "octet"];
    let mut stranger = Client::ask(served_to("10.77.0.0/24", &[]).address, 1, &request);
    let (code, rest) = stranger.receive();
    assert_eq!((code, &rest[..2]), (ERROR, &[0, 2][..]));
    // No more comes back than was sent: an error has a number and a short text.
    assert!(rest.len() < 2 * 22, "{} bytes", rest.len());
    let named = served_to("10.77.0.0/24", &["127.0.0.0/8"]);
    assert_eq!(Client::ask(named.address, 1, &request).receive().0, DATA);
}

#[test]
fn a_rack_that_asks_at_once_is_served_at_once() {
    let served = served();
    let request = ["undionly.kpxe", "octet"];
    let mut rack: Vec<_> = (0..300)
        .map(|_| Client::ask(served.address, 1, &request))
        .collect();
    for client in &mut rack {
        // So many at once may be more than the socket holds: clients ask again.
        let mut packet = [0; 2048];
        let timeout = Duration::from_secs(1);
        client.socket.set_read_timeout(Some(timeout)).unwrap();
        let served_at_last = (0..20).any(|_| {
            let came = client.socket.recv_from(&mut packet).is_ok();
            if !came {
                let request = b"\0\x01undionly.kpxe\0octet\0";
                client.socket.send_to(request, served.address).unwrap();
            }
            came
        });
        assert!(served_at_last && packet[..2] == DATA.to_be_bytes());
    }
}

#[test]
fn a_client_that_never_acknowledges_is_sent_five_packets() {
    let served = served();
    let client = Client::ask(served.address, 1, &["undionly.kpxe", "octet"]);
    let again = Duration::from_millis(200);
    client.socket.set_read_timeout(Some(again)).unwrap();
    // A second request is heard once the first one was given up, and is answered
    // from another port.
    let mut first = None;
    let mut packets = 0;
    loop {
        let mut packet = [0; 2048];
        match client.socket.recv_from(&mut packet) {
            // That the transfer was given up.
            Ok(_) if packet[..2] == ERROR.to_be_bytes() => {}
            Ok((_, peer)) if *first.get_or_insert(peer) == peer => packets += 1,
            Ok(_) => break,
            Err(_) => {
                let request = b"\0\x01undionly.kpxe\0octet\0";
                client.socket.send_to(request, served.address).unwrap();
            }
        }
    }
    assert_eq!(packets, 1 + RETRIES);
    assert_eq!(packets, 5);
}
