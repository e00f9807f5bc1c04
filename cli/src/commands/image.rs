//! `surplus image`: guest images, known by the hash of their content.
//!
//! What always holds: an image that the marketplace has is not sent again.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use sha2::{Digest as _, Sha256};
use surplus_protocol::Digest;
use surplus_protocol::api::Image;
use surplus_protocol::lease::ImageFormat;

use super::Session;
use super::inputs::{BadInput, image_format};
use crate::api::{path_segment, query_value};
use crate::failure::Failure;
use crate::units::show_size;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a guest image to the marketplace
    Add {
        /// The disk image: raw, qcow2, VMDK, VHD, VHDX, or an OVA with one disk
        file: PathBuf,
        /// What to call it [default: the file's name without its ending]
        #[arg(long)]
        name: Option<String>,
        /// What it is [default: as the file itself says]
        #[arg(long, value_enum)]
        format: Option<FormatName>,
    },
    /// The images that can be rented with
    List,
    /// Delete one of your own images; leases that run with it go on
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FormatName {
    Raw,
    Qcow2,
    Vmdk,
    Vhd,
    Vhdx,
    Ova,
}

impl From<FormatName> for ImageFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Raw => Self::Raw,
            FormatName::Qcow2 => Self::Qcow2,
            FormatName::Vmdk => Self::Vmdk,
            FormatName::Vhd => Self::Vhd,
            FormatName::Vhdx => Self::Vhdx,
            FormatName::Ova => Self::Ova,
        }
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { file, name, format } => {
            add(session, &file, name, format.map(Into::into)).await
        }
        Command::Delete { name } => {
            let path = format!("/images/{}", path_segment(&name));
            session.api.delete(&path).await?;
            session.out.note(&format!("deleted {name}"));
            Ok(())
        }
        Command::List => {
            let images: Vec<Image> = session.api.get("/images").await?;
            session.out.result(&images, |view| view.images(&images))
        }
    }
}

/// What is known of the file after it was read once.
struct Hashed {
    digest: Digest,
    bytes: u64,
    format: ImageFormat,
}

async fn add(
    session: &Session,
    path: &Path,
    name: Option<String>,
    format: Option<ImageFormat>,
) -> Result<(), Failure> {
    let name = match name.or_else(|| Some(path.file_stem()?.to_str()?.to_owned())) {
        Some(name) => name,
        None => {
            return Err(Failure::new(
                "the image has no name",
                "give one: --name NAME",
            ));
        }
    };
    let hashed = hash(session, path, format)?;
    let there: Vec<Image> = session.api.get("/images").await?;
    let mut same = there.iter().filter(|image| image.digest == hashed.digest);
    if let Some(image) = same.clone().find(|image| image.name == name) {
        session
            .out
            .note("the marketplace has this image already: nothing was sent");
        return session.out.result(image, |view| view.image(image));
    }
    let format_name = hashed.format;
    let target = format!(
        "/images/{}?name={}&format={format_name}",
        hashed.digest,
        query_value(&name)
    );
    if let Some(known) = same.next() {
        let image = session.api.name_image(&target).await?;
        session.out.note(&format!(
            "the marketplace has these bytes already, as {}: they were named, not sent",
            known.name
        ));
        return session.out.result(&image, |view| view.image(&image));
    }
    let bar = session.out.byte_bar("uploading", hashed.bytes);
    let image = session.api.upload(&target, path, hashed.bytes, &bar).await;
    bar.finish_and_clear();
    let image = image?;
    session.out.note(&format!(
        "sent {} as {}",
        show_size(hashed.bytes),
        image.name
    ));
    session.out.result(&image, |view| view.image(&image))
}

fn hash(session: &Session, path: &Path, asked: Option<ImageFormat>) -> Result<Hashed, Failure> {
    let unreadable = |source| BadInput::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let format = image_format(path, &mut file, asked)?;
    file.rewind().map_err(unreadable)?;
    let bar = session
        .out
        .byte_bar("hashing", file.metadata().map_err(unreadable)?.len());
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let length = file.read(&mut buffer).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        bytes += length as u64;
        bar.set_position(bytes);
    }
    bar.finish_and_clear();
    Ok(Hashed {
        digest: Digest::from_sha256(hasher.finalize().into()),
        bytes,
        format,
    })
}
