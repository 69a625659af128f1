//! TLS of `mcpgate call`: whom it takes for a gateway, and who it says it is.
//!
//! The certificate in `TLS_CERT` is the gateway's own, whatever names stand in it: who is shown that one, and a proof
//! that its key is there, needs no authority. Any other has to be signed for the name that is called by an authority: one
//! of those that were named, else one of the system's.

use std::{io, net::TcpStream, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConnection, DigitallySignedStruct, InvalidMessage, RootCertStore, SignatureScheme,
    StreamOwned,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    cli::TrustArgs,
    error::Error,
    http::tls::{
        PROVIDER,
        pem::{certificates, private_key},
    },
};

pub(super) use rustls::ClientConfig;

/// How to speak to the gateway whose certificate is in the file `own`, or to any other.
///
/// Fails with [`Error::Settings`] when a file that was named cannot be used.
pub(super) fn client(own: Option<&Path>, args: &TrustArgs) -> Result<Arc<ClientConfig>, Error> {
    let failed = |what: String| Error::Settings { what, hint: String::new() };
    let own = own.map(|path| certificates("TLS_CERT", path)).transpose()?;
    let mut roots = RootCertStore::empty();
    match &args.cacert {
        Some(path) => {
            for authority in certificates("--cacert", path)? {
                let unusable = |cause| failed(format!("`--cacert`: `{}` cannot be used: {cause}", path.display()));
                roots.add(authority).map_err(unusable)?;
            }
        }
        // A system may have none, or some that are broken.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let no_tls = |cause: &dyn std::fmt::Display| failed(format!("TLS cannot be set up: {cause}"));
    let authorities = match roots.is_empty() {
        true => None,
        false => {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER));
            Some(builder.build().map_err(|cause| no_tls(&cause))?)
        }
    };
    let known = Known { own: own.and_then(|chain| chain.into_iter().next()), authorities };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|cause| no_tls(&cause))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(known));
    let config = match &args.cert {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let key = match &args.cert_key {
                Some(key) => private_key("--cert-key", key)?,
                None => private_key("--cert", path)?,
            };
            let unusable = |cause| failed(format!("`--cert`: `{}` cannot be used: {cause}", path.display()));
            builder.with_client_auth_cert(certificates("--cert", path)?, key).map_err(unusable)?
        }
    };
    Ok(Arc::new(config))
}

/// Speaks TLS over `tcp` with the gateway at `address`, a name and a port. The handshake comes with the first byte.
pub(super) fn over(
    config: Arc<ClientConfig>,
    address: &str,
    tcp: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(StreamOwned::new(ClientConnection::new(config, name).map_err(io::Error::other)?, tcp))
}

/// What went wrong with TLS, and what helps against it, if that was it.
pub(super) fn failure(cause: &io::Error) -> Option<(String, &'static str)> {
    let cause = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some((cause.to_string(), way_out(cause)))
}

fn way_out(cause: &rustls::Error) -> &'static str {
    match cause {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "call it by a name that its certificate is for",
        rustls::Error::InvalidCertificate(_) => {
            "name a file with its certificate, or that of its authority, with `--cacert`"
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it may speak plain HTTP; use an address that begins with `http://`"
        }
        rustls::Error::AlertReceived(_) => {
            "a gateway with `TLS_CLIENT_CA` lets in who shows a certificate: `--cert FILE`"
        }
        _ => "",
    }
}

#[derive(Debug)]
struct Known {
    own: Option<CertificateDer<'static>>,
    /// `None`: there are none.
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_own = self.own.as_ref().is_some_and(|own| own == shown);
        match &self.authorities {
            _ if is_own => Ok(ServerCertVerified::assertion()),
            Some(authorities) => authorities.verify_server_cert(shown, intermediates, name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
