//! How long a certificate is valid and for whom, read from its bytes.
//!
//! Values in, values out. rustls looks at the certificates it is shown, not at the one it shows; so the two dates and the names are picked
//! out here (RFC 5280, 4.1 and 4.2.1.6).

use std::{net::IpAddr, time::SystemTime};

use yasna::{ASN1Result, BERReader, Tag, models::ObjectIdentifier, tags};

/// `subjectAltName`.
const NAMES_OID: [u64; 4] = [2, 5, 29, 17];

/// Tag of the list of extensions among the fields of a certificate.
const EXTENSIONS_TAG: u64 = 3;

/// Tags of the kinds of names that a gateway can have: `dNSName`, `iPAddress`.
const HOST_TAG: u64 = 2;
const ADDRESS_TAG: u64 = 7;

/// When a certificate is valid, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// Not before this moment.
    pub(super) not_before: SystemTime,
    /// Not after this moment.
    pub(super) not_after: SystemTime,
}

/// The validity of a certificate in DER; `None` when it is none.
pub(super) fn of(der: &[u8]) -> Option<Validity> {
    yasna::parse_der(der, |certificate| {
        certificate.read_sequence(|parts| {
            let validity = parts.next().read_sequence(|fields| {
                fields.read_optional(|version| version.read_tagged(Tag::context(0), skip))?;
                // Serial number, algorithm, issuer.
                for _ in 0..3 {
                    skip(fields.next())?;
                }
                let validity = fields.next().read_sequence(|dates| {
                    Ok(Validity { not_before: moment(dates.next())?, not_after: moment(dates.next())? })
                })?;
                while fields.read_optional(skip)?.is_some() {}
                Ok(validity)
            })?;
            while parts.read_optional(skip)?.is_some() {}
            Ok(validity)
        })
    })
    .ok()
}

/// Hosts and addresses that a certificate in DER is for; none when it is no certificate.
pub(super) fn names(der: &[u8]) -> Vec<String> {
    let read = || {
        let extensions = extensions(der)?;
        let mut found = None;
        yasna::parse_der(&extensions, |list| {
            list.read_sequence_of(|extension| {
                let (oid, value) = extension.read_sequence(|fields| {
                    let oid = fields.next().read_oid()?;
                    fields.read_optional(|is_critical| is_critical.read_bool())?;
                    Ok((oid, fields.next().read_bytes()?))
                })?;
                if oid == ObjectIdentifier::from_slice(&NAMES_OID) {
                    found = Some(value);
                }
                Ok(())
            })
        })
        .ok()?;
        let mut names = Vec::new();
        let is_name_list = yasna::parse_der(&found?, |list| {
            list.read_sequence_of(|name| {
                let name = name.read_tagged_der()?;
                names.extend(name_of(name.tag(), name.value()));
                Ok(())
            })
        });
        is_name_list.is_ok().then_some(names)
    };
    read().unwrap_or_default()
}

/// The list of extensions of a certificate, in DER.
fn extensions(der: &[u8]) -> Option<Vec<u8>> {
    let found = yasna::parse_der(der, |certificate| {
        certificate.read_sequence(|parts| {
            let found = parts.next().read_sequence(|fields| {
                let mut found = None;
                while let Some(field) = fields.read_optional(|field| field.read_tagged_der())? {
                    if field.tag() == Tag::context(EXTENSIONS_TAG) {
                        found = Some(field.value().to_owned());
                    }
                }
                Ok(found)
            })?;
            while parts.read_optional(skip)?.is_some() {}
            Ok(found)
        })
    });
    found.ok().flatten()
}

/// `None` for kinds that no client calls a gateway by.
fn name_of(tag: Tag, value: &[u8]) -> Option<String> {
    if tag == Tag::context(HOST_TAG) {
        return std::str::from_utf8(value).ok().map(str::to_owned);
    }
    if tag != Tag::context(ADDRESS_TAG) {
        return None;
    }
    let four = <[u8; 4]>::try_from(value).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok().map(|address| address.to_string())
}

fn skip(part: BERReader<'_, '_>) -> ASN1Result<()> {
    part.read_der().map(drop)
}

/// Either of the two ways to write a date.
fn moment(date: BERReader<'_, '_>) -> ASN1Result<SystemTime> {
    let is_short = date.lookahead_tag()? == tags::TAG_UTCTIME;
    let date = if is_short { *date.read_utctime()?.datetime() } else { *date.read_generalized_time()?.datetime() };
    Ok(date.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    #[test]
    fn both_ends_are_read_however_the_date_is_written() {
        let key = KeyPair::generate().unwrap();
        // 2001-09-09, 2033-05-18, and 2096-10-02, which only the longer way can write.
        for (from, until) in [(1_000_000_000, 2_000_000_000), (2_000_000_000, 4_000_000_000)] {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (at(from).into(), at(until).into());
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(of(certificate.der()), Some(Validity { not_before: at(from), not_after: at(until) }));
            for cut in 0..certificate.der().len() {
                assert_eq!(of(&certificate.der()[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(of(b"no certificate"), None);
    }

    #[test]
    fn hosts_and_addresses_are_read() {
        let key = KeyPair::generate().unwrap();
        let certificate = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.self_signed(&key).unwrap()
        };
        let all = ["box.local", "*.example.org", "10.0.0.7", "::1"];
        let certificate_of_all = certificate(&all);
        assert_eq!(names(certificate_of_all.der()), all);
        assert_eq!(names(certificate(&[]).der()), Vec::<String>::new());
        for cut in 0..certificate_of_all.der().len() {
            assert_eq!(names(&certificate_of_all.der()[..cut]), Vec::<String>::new(), "cut at {cut}");
        }
    }
}
