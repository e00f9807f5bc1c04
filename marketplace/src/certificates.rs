//! The marketplace's own certificates, renewed while it runs: the TLS port's
//! and the ticket signer's.

use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use surplus_https::ServerIdentity;
use surplus_https::server::IdentityError;
use surplus_pki::Authority;

use crate::data::{DataDir, DataError};
use crate::notary::Signer;

/// What is shown and signed with.
#[derive(Debug)]
pub(crate) struct Certificates {
    data: DataDir,
    names: Vec<String>,
    identity: ServerIdentity,
    signer: RwLock<Arc<Signer>>,
}

/// Why the certificates could not be read or renewed.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    #[error("cannot keep the marketplace's certificates")]
    Data(#[from] DataError),
    #[error("cannot show the server's certificate")]
    Identity(#[from] IdentityError),
}

impl Certificates {
    /// Those in the data directory, issued where they are missing.
    pub(crate) fn open(
        data: DataDir,
        names: Vec<String>,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Self, CertificatesError> {
        let (key, certificate) = data.server(authority, &names, now)?;
        let identity = ServerIdentity::new(&key, &certificate, authority.certificate())?;
        let signer = RwLock::new(Arc::new(data.signer(authority, now)?));
        Ok(Self {
            data,
            names,
            identity,
            signer,
        })
    }

    /// What the TLS port shows; it follows each renewal.
    pub(crate) fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    /// What signs tickets now.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.signer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Issues anew what has lived half of its time.
    pub(crate) fn renew(
        &self,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<(), CertificatesError> {
        let (key, certificate) = self.data.server(authority, &self.names, now)?;
        self.identity
            .replace(&key, &certificate, authority.certificate())?;
        let signer = Arc::new(self.data.signer(authority, now)?);
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = signer;
        Ok(())
    }
}
