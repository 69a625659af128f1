//! How long a certificate is valid, read from its bytes.
//!
//! Values in, values out. rustls looks at the validity of the certificates it is shown, not of the one it shows; so the two
//! dates are picked out here (RFC 5280, 4.1).

use std::time::SystemTime;

use yasna::{ASN1Result, BERReader, Tag, tags};

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

    use rcgen::{CertificateParams, KeyPair};

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
}
