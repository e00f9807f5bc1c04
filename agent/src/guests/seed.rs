//! The NoCloud seed: a small FAT volume labelled `CIDATA` that tells the guest
//! who it is.
//!
//! The buyer's user data is handed on as it is; without it a `#cloud-config` is
//! made that installs the buyer's SSH keys. With both, the keys also stand in
//! the meta data. There is never a password. IPv4 is left to DHCP; the IPv6 address
//! of the guest's seat is told here, for nothing on its network tells it.
//!
//! Source: cloud-init's reference, data source NoCloud and networking
//! configuration, version 1, which the most images understand.

use std::fmt::Write as _;
use std::io::{self, Cursor, Write as _};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use surplus_protocol::lease::GuestSpec;
use surplus_seat::{HOST6, PREFIX6, Seat};

use super::placement::Placement;

/// Size of a seed whose user data is small.
const MIN_BYTES: usize = 1 << 20;

/// Makes the volume. The same input gives the same bytes.
///
/// # Errors
///
/// When the contents cannot be written into the volume, which would be a bug.
pub fn volume(placement: Placement, seat: Seat, guest: &GuestSpec) -> io::Result<Vec<u8>> {
    let files = [
        ("meta-data", meta_data(placement, guest)),
        ("user-data", user_data(guest)),
        ("network-config", network_config(seat)),
    ];
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    // Twice the contents leaves room for the allocation table and slack.
    let size = (MIN_BYTES / 2 + 2 * content).next_multiple_of(MIN_BYTES);
    let mut image = Cursor::new(vec![0; size]);
    let options = FormatVolumeOptions::new()
        .volume_label(*b"CIDATA     ")
        .volume_id(0x5355_5250);
    fatfs::format_volume(&mut image, options)?;
    let volume = FileSystem::new(&mut image, FsOptions::new())?;
    for (name, text) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(image.into_inner())
}

fn meta_data(placement: Placement, guest: &GuestSpec) -> String {
    let mut text = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&placement.to_string()),
        quoted(&guest.name)
    );
    if !guest.ssh_keys.is_empty() {
        text.push_str("public-keys:\n");
        push_list(&mut text, &guest.ssh_keys);
    }
    text
}

fn user_data(guest: &GuestSpec) -> String {
    if let Some(given) = &guest.user_data {
        return given.clone();
    }
    let mut text = String::from("#cloud-config\n");
    if guest.ssh_keys.is_empty() {
        text.push_str("{}\n");
    } else {
        text.push_str("ssh_authorized_keys:\n");
        push_list(&mut text, &guest.ssh_keys);
    }
    text
}

fn network_config(seat: Seat) -> String {
    format!(
        "version: 1\n\
         config:\n\
         \x20 - type: physical\n\
         \x20   name: eth0\n\
         \x20   mac_address: \"{}\"\n\
         \x20   accept-ra: false\n\
         \x20   subnets:\n\
         \x20     - type: dhcp4\n\
         \x20     - type: static6\n\
         \x20       address: \"{}/{PREFIX6}\"\n\
         \x20       gateway: \"{HOST6}\"\n",
        seat.mac(),
        seat.ipv6()
    )
}

fn push_list(text: &mut String, items: &[String]) {
    for item in items {
        let _ = writeln!(text, "  - {}", quoted(item.trim()));
    }
}

/// A JSON string is a YAML string too, whatever stands in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::test_ticket;
    use super::*;

    fn read(image: &[u8], name: &str) -> String {
        let volume = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
        let label = volume
            .read_volume_label_from_root_dir_as_bytes()
            .unwrap()
            .unwrap();
        assert_eq!(&label, b"CIDATA     ");
        let mut text = String::new();
        volume
            .root_dir()
            .open_file(name)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    #[test]
    fn the_buyers_keys_arrive_and_no_password_does() {
        let mut ticket = test_ticket(1, 2);
        ticket.guest.ssh_keys = vec!["ssh-ed25519 AAAA alice: \"work\"\n".into()];
        let seat = Seat::try_from(17).unwrap();
        let image = volume(Placement::of(&ticket), seat, &ticket.guest).unwrap();
        insta::assert_snapshot!(read(&image, "meta-data"), @r#"
        instance-id: "00000000-0000-0000-0000-000000000001.2"
        local-hostname: "guest-1"
        public-keys:
          - "ssh-ed25519 AAAA alice: \"work\""
        "#);
        insta::assert_snapshot!(read(&image, "user-data"), @r#"
        #cloud-config
        ssh_authorized_keys:
          - "ssh-ed25519 AAAA alice: \"work\""
        "#);
        insta::assert_snapshot!(read(&image, "network-config"), @r#"
        version: 1
        config:
          - type: physical
            name: eth0
            mac_address: "02:53:55:52:00:11"
            accept-ra: false
            subnets:
              - type: dhcp4
              - type: static6
                address: "fdc9:50a5:3ed9::1:11/64"
                gateway: "fdc9:50a5:3ed9::1"
        "#);
        assert!(!String::from_utf8_lossy(&image).contains("passw"));
        assert_eq!(
            image,
            volume(Placement::of(&ticket), seat, &ticket.guest).unwrap()
        );
    }

    #[test]
    fn user_data_is_handed_on_as_it_is_however_long() {
        let mut ticket = test_ticket(1, 1);
        let seat = Seat::try_from(17).unwrap();
        let given = "#!/bin/sh\necho hello\r\n".repeat(100_000);
        ticket.guest.user_data = Some(given.clone());
        let image = volume(Placement::of(&ticket), seat, &ticket.guest).unwrap();
        assert_eq!(read(&image, "user-data"), given);
    }
}
