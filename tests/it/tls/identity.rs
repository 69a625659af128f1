//! Certificates for tests, and clients that trust them.

use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::support::ClientTls;

/// The settings that name the files `cert.pem` and `key.pem`.
pub(crate) const FILES: [(&str, &str); 2] = [("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem")];

/// Who signs certificates.
#[derive(Clone)]
pub(crate) struct Authority(Arc<(Certificate, Issuer<'static, KeyPair>)>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) authority: Authority,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Authority(Arc::new((certificate, Issuer::new(params, key))))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.0.pem()
    }

    /// A certificate of a gateway on this machine.
    pub(crate) fn server(&self) -> Identity {
        self.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(crate) fn client(&self) -> Identity {
        self.sign("a client", ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Identity {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0.1).unwrap().pem();
        Identity { cert, key: key.serialize_pem(), authority: self.clone() }
    }
}

/// A client that trusts `authority`, shows `identity`, and knows these versions of TLS; when none are named, both.
pub(crate) fn trusting(
    authority: &Authority,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientTls {
    made(ring::default_provider(), authority.0.0.der().clone(), identity, versions)
}

/// The same without an identity, and with another order of ciphers.
pub(crate) fn trusting_with_ciphers_backwards(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientTls {
    let mut provider = ring::default_provider();
    provider.cipher_suites.reverse();
    made(provider, authority.0.0.der().clone(), None, versions)
}

/// A client that trusts this certificate, which no authority stands for.
pub(crate) fn trusting_certificate(certificate: CertificateDer<'static>) -> ClientTls {
    made(ring::default_provider(), certificate, None, &[])
}

fn made(
    provider: CryptoProvider,
    trusted: CertificateDer<'static>,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientTls {
    let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
