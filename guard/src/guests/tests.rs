use std::process::{Child, Command, Stdio};

use super::*;

/// A process that waits, with these arguments; it ends with the test.
struct Waiting(Child);

impl Waiting {
    fn with(arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo; read line", "sh"])
            .args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its command line is its own, not the test's, from here on.
        let mut byte = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A domain that no other test's process runs.
fn domain(test: &str) -> String {
    format!("lease-{test}-{}.1", std::process::id())
}

#[test]
fn a_guest_is_found_by_its_name_and_killed_and_others_are_not() {
    let domain = domain("found");
    let value = format!("guest={domain},debug-threads=on");
    let mut guest = Waiting::with(&["-name", &value, "-S"]);
    let others = [
        vec!["-name".into(), format!("guest={domain}0")],
        vec!["-name".into(), format!("guest=x{domain}")],
        vec!["-name".into(), format!("process={domain}")],
        vec!["-title".into(), format!("guest={domain}")],
        vec![format!("guest={domain}")],
    ];
    let mut others: Vec<_> = others
        .iter()
        .map(|arguments| {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            Waiting::with(&arguments)
        })
        .collect();
    let found = Processes::default().of(&domain).unwrap();
    let pids: Vec<_> = found.iter().map(|guest| guest.pid).collect();
    assert_eq!(pids, [guest.pid()]);
    found[0].kill().unwrap();
    assert!(!guest.0.wait().unwrap().success());
    assert!(others.iter_mut().all(Waiting::runs));
    assert!(Processes::default().of(&domain).unwrap().is_empty());
}

/// The number of a guest that ended was given to another process, before it was
/// opened or after.
#[test]
fn a_process_that_got_a_guests_number_is_never_killed() {
    let domain = domain("reused");
    let mut heir = Waiting::with(&[]);
    let proc = tempfile::tempdir().unwrap();
    let directory = proc.path().join(heir.pid().as_raw_pid().to_string());
    fs::create_dir(&directory).unwrap();
    let command_line = |text: &str| fs::write(directory.join("cmdline"), text).unwrap();
    let processes = Processes(proc.path().to_owned());

    // What was seen was the guest; what is opened is its heir.
    command_line(&format!("qemu\0-name\0guest={domain}\0"));
    let found = processes.guest(heir.pid(), &domain, |pid| {
        command_line("sh\0");
        pidfd_open(pid, PidfdFlags::empty())
    });
    assert!(found.unwrap().is_none());

    // What is opened is the guest, and its number is given away afterwards.
    let value = format!("guest={domain}");
    let mut guest = Waiting::with(&["-name", &value]);
    let found = Processes::default().of(&domain).unwrap();
    guest.0.kill().unwrap();
    guest.0.wait().unwrap();
    for guest in found {
        assert!(guest.has_ended().unwrap());
        guest.kill().unwrap();
    }
    assert!(heir.runs());
}

#[test]
fn a_guest_that_has_ended_and_is_not_reaped_is_gone() {
    let domain = domain("zombie");
    let value = format!("guest={domain}");
    let mut guest = Waiting::with(&["-name", &value]);
    let found = Processes::default().of(&domain).unwrap();
    found[0].kill().unwrap();
    let mut polled = [PollFd::new(&found[0].process, PollFlags::IN)];
    poll(&mut polled, None).unwrap();
    assert!(found[0].has_ended().unwrap());
    // It has no command line any more, and its control group still.
    let proc = tempfile::tempdir().unwrap();
    let directory = proc.path().join(guest.pid().as_raw_pid().to_string());
    fs::create_dir(&directory).unwrap();
    let control_group = format!("0::/machine/qemu-1-{domain}.libvirt-qemu\n");
    fs::write(directory.join("cgroup"), control_group).unwrap();
    let processes = Processes(proc.path().to_owned());
    assert!(processes.runs(guest.pid(), &domain));
    assert!(processes.of(&domain).unwrap().is_empty());
    guest.0.wait().unwrap();
}

/// A guest that overwrote its command line is found by its control group.
#[test]
fn a_guest_is_found_by_its_control_group() {
    let domain = "lease-0191f7a0-0000-7000-8000-000000000001.1";
    let scope = domain.replace('-', "\\x2d");
    for (control_groups, is_it) in [
        (
            format!("0::/machine.slice/machine-qemu\\x2d4\\x2d{scope}.scope/libvirt/emulator\n"),
            true,
        ),
        (
            format!("0::/machine/qemu-12-{domain}.libvirt-qemu/vcpu0\n"),
            true,
        ),
        (
            format!("0::/machine/qemu-12-{domain}0.libvirt-qemu\n"),
            false,
        ),
        (
            format!("0::/machine/qemu-12-x{domain}.libvirt-qemu\n"),
            false,
        ),
        (format!("0::/system.slice/{domain}.service\n"), false),
        (format!("0::/qemu-x-{domain}.scope\n"), false),
        (String::new(), false),
    ] {
        assert_eq!(
            names_in_control_group(control_groups.as_bytes(), domain),
            is_it,
            "{control_groups}"
        );
    }
}
