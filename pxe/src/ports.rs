//! Who holds a port, for a message that helps.

use std::fs;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
}

/// The program that holds the port, as `dnsmasq (process 123)`.
pub(crate) fn holder(protocol: Protocol, port: u16) -> String {
    let tables = match protocol {
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| inodes_at(&table, port))
        .collect();
    process_with(&inodes).unwrap_or_else(|| "another program".to_owned())
}

/// The sockets of one table that are bound to `port`.
fn inodes_at(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&suffix)))
        .filter_map(|fields| fields.get(9).map(|inode| (*inode).to_owned()))
        .filter(|inode| inode != "0")
        .collect()
}

fn process_with(inodes: &[String]) -> Option<String> {
    let sockets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let holds = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).ok()?;
        let mut targets = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        targets
            .any(|target| sockets.iter().any(|socket| target == Path::new(socket)))
            .then_some(())
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path())?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some(format!("{} (process {id})", name.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = holder(Protocol::Tcp, port);
        let id = std::process::id();
        assert!(holder.ends_with(&format!("(process {id})")), "{holder}");
    }
}
