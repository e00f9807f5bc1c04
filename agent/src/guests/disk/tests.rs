use std::process::Command as Blocking;

use super::*;

fn make(arguments: &[&str]) {
    let done = Blocking::new("/usr/bin/qemu-img")
        .args(arguments)
        .output()
        .expect("needs `apt install qemu-utils`");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn base(path: &Utf8Path, format: DiskFormat) -> Base {
    Base {
        path: path.to_owned(),
        format,
    }
}

#[tokio::test]
async fn a_disk_larger_than_sold_is_refused_and_one_that_fits_is_grown() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let (image, disk) = (dir.join("image"), dir.join("disk"));
    make(&["create", "-q", "-f", "qcow2", image.as_str(), "64M"]);
    let tool = QemuImg::default();
    let error = tool
        .check(&image, ImageFormat::Qcow2, 1 << 20)
        .await
        .unwrap_err();
    assert!(error.is_final());
    assert!(error.to_string().contains("67108864"), "{error}");

    tool.check(&image, ImageFormat::Qcow2, 1 << 30)
        .await
        .unwrap();
    let file = tool
        .overlay(&base(&image, DiskFormat::Qcow2), &disk, 1 << 30)
        .await
        .unwrap();
    assert_eq!(file.format, DiskFormat::Qcow2);
    let info = Blocking::new("/usr/bin/qemu-img")
        .args(["info", "--output=json", disk.as_str()])
        .output()
        .unwrap();
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["virtual-size"], 1_u64 << 30);
    assert_eq!(info["backing-filename-format"], "qcow2");
}

#[tokio::test]
async fn a_backing_file_and_an_external_data_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let (image, data) = (dir.join("image"), dir.join("data"));
    let tool = QemuImg::default();
    make(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        "/etc/passwd",
        "-F",
        "raw",
        image.as_str(),
        "1M",
    ]);
    let error = tool
        .check(&image, ImageFormat::Qcow2, 1 << 30)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DiskError::Unfit(Unfit::BackingFile)),
        "{error:?}"
    );
    let option = format!("data_file={data}");
    make(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &option,
        image.as_str(),
        "1M",
    ]);
    let error = tool
        .check(&image, ImageFormat::Qcow2, 1 << 30)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DiskError::Unfit(Unfit::OtherFile(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_raw_image_that_looks_like_qcow2_stays_raw() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let (image, disk) = (dir.join("image"), dir.join("disk"));
    make(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        "/etc/passwd",
        "-F",
        "raw",
        image.as_str(),
        "1M",
    ]);
    let tool = QemuImg::default();
    tool.check(&image, ImageFormat::Raw, 1 << 30).await.unwrap();
    tool.overlay(&base(&image, DiskFormat::Raw), &disk, 1 << 30)
        .await
        .unwrap();
    let info = Blocking::new("/usr/bin/qemu-img")
        .args(["info", "--output=json", disk.as_str()])
        .output()
        .unwrap();
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["backing-filename-format"], "raw");
}
