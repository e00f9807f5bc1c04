//! Who calls: an operator or buyer by API key, a host by its certificate.
//!
//! What always holds: the register is asked on every request, for a connection
//! outlives a certificate and an operator's change of mind.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{StatusCode, header};
use surplus_https::{Peer, PeerCertificate, TlsVersion};
use surplus_market::enrol;
use surplus_market::records::{HostRecord, KeyRecord, LeaseRecord};
use surplus_market::store::{Store as _, Tx as _};
use surplus_pki::{Certificate, Role as CertificateRole};
use surplus_protocol::Digest;
use surplus_protocol::api::{HostState, Role};
use surplus_protocol::ids::HostId;

use crate::app::App;
use crate::refusal::Refusal;
use crate::secret;

/// Somebody with an API key: a buyer, or an operator who may do the same.
#[derive(Clone, Debug)]
pub(crate) struct Buyer(pub KeyRecord);

/// An operator.
#[derive(Clone, Debug)]
pub(crate) struct Operator(pub KeyRecord);

/// An enrolled host, by the certificate of this connection.
#[derive(Clone, Debug)]
pub(crate) struct CallingHost {
    pub from: std::net::IpAddr,
    pub record: HostRecord,
    pub certificate: Certificate,
}

impl Buyer {
    /// Whether this caller may see and end the lease.
    pub(crate) fn may_handle(&self, lease: &LeaseRecord) -> bool {
        self.0.role == Role::Operator || lease.owner == self.0.id
    }
}

impl FromRequestParts<App> for Buyer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let unauthorized = |detail: &str| {
            Refusal::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "An API key is needed",
                detail,
                "set SURPLUS_TOKEN to an API key (it is sent as `Authorization: Bearer`); an operator makes one with `surplus key create`",
            )
        };
        let value = parts.headers.get(header::AUTHORIZATION);
        let value = value.ok_or_else(|| unauthorized("no Authorization header was sent"))?;
        let secret = value.to_str().ok().and_then(|text| {
            let (scheme, secret) = text.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(secret.trim())
        });
        let secret = secret.ok_or_else(|| unauthorized("the Authorization header is no Bearer"))?;
        let key = app.store.read().await?.key(&secret::hash(secret)).await?;
        key.map(Self)
            .ok_or_else(|| unauthorized("the API key is not known here"))
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Buyer(key) = Buyer::from_request_parts(parts, app).await?;
        match key.role {
            Role::Operator => Ok(Self(key)),
            Role::Buyer => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "Only an operator may do this",
                format!("API key {:?} is a buyer's", key.name),
                "use an operator's API key",
            )),
        }
    }
}

impl FromRequestParts<App> for CallingHost {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let peer = Peer::from_request_parts(parts, app).await.map_err(|_| {
            let missing = std::io::Error::other("the server gave no peer");
            Refusal::internal("telling who calls", &missing)
        })?;
        let from = peer.address.ip().to_canonical();
        let forbidden = |name: &str, detail: &str, next: &str| {
            let title = "The host's certificate is not good for this";
            Refusal::new(StatusCode::FORBIDDEN, name, title, detail, next)
        };
        if peer.tls_version != TlsVersion::V1_3 {
            return Err(forbidden(
                "tls-version",
                "agents speak TLS 1.3",
                "use TLS 1.3",
            ));
        }
        let certificate = match peer.certificate {
            PeerCertificate::Valid(certificate) => certificate,
            PeerCertificate::Expired(certificate) => {
                return Err(forbidden(
                    "certificate-expired",
                    &format!("the certificate expired at {}", certificate.not_after()),
                    "re-enrol with the same key: POST /.well-known/est/simplereenroll",
                ));
            }
            PeerCertificate::None => {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "certificate-required",
                    "A host's certificate is needed",
                    "no client certificate was shown",
                    "enrol first: POST /.well-known/est/simpleenroll",
                ));
            }
        };
        if certificate.role() != Some(CertificateRole::Host) {
            let next = "use the certificate that enrolment gave";
            return Err(forbidden(
                "not-a-host",
                "the certificate is not a host's",
                next,
            ));
        }
        let name = certificate.common_name().unwrap_or_default();
        let key = Digest::from_sha256(certificate.key_fingerprint());
        let record = app.store.read().await?.host_of_key(&key).await?;
        let record = record.filter(|host| host.id.to_string() == name);
        let record = record.ok_or_else(|| Refusal::unregistered(&format!("host {name:?}")))?;
        if record.state != HostState::Enrolled {
            return Err(Refusal::not_enrolled(record.state, &record.detail));
        }
        let record = match record.next_key == Some(key) {
            true => first_use(app, record.id, key).await?,
            false => record,
        };
        Ok(Self {
            from,
            record,
            certificate,
        })
    }
}

/// Writes down that a host used its next key: the old one is refused from now
/// on.
async fn first_use(app: &App, id: HostId, key: Digest) -> Result<HostRecord, Refusal> {
    let mut tx = app.store.begin().await?;
    let record = tx.host(id).await?;
    let mut record = record.ok_or_else(|| Refusal::unregistered(&format!("host {id}")))?;
    if enrol::use_key(&mut record, key) {
        tx.put_host(&record).await?;
        tx.commit().await?;
        tracing::info!(host = %id, "host changed its key");
    }
    Ok(record)
}
