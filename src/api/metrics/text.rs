//! Puts figures into text: OpenMetrics 1.0 for those who ask for it, else the classic format 0.0.4.
//!
//! prometheus-client writes OpenMetrics. The classic format differs in what a family is called, and has neither units nor an end; its
//! counters are written as the encoder writes gauges, which is the same line under their whole name.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{self, Registry},
};

use super::{
    figures::Figures,
    table::{Kind, METRICS, Metric, Sample, Samples, Unit, Value},
};
use crate::pool::buckets::{BOUNDS_MICROS, Distribution};

/// What a client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Classic,
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header prefers (RFC 9110, 12.5.1).
    pub(super) fn for_client(accept: Option<&str>) -> Format {
        let quality_of = |media: &str| {
            let ranges = accept.unwrap_or_default().split(',');
            let qualities = ranges.filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next().is_some_and(|it| it.eq_ignore_ascii_case(media));
                let quality = parts.find_map(|it| it.strip_prefix("q=")).map_or(1.0, |it| it.parse().unwrap_or(0.0));
                is_it.then_some(quality)
            });
            qualities.fold(0.0, f64::max)
        };
        let open_metrics = quality_of("application/openmetrics-text");
        let is_wanted = 0.0 < open_metrics && quality_of("text/plain") <= open_metrics;
        if is_wanted { Format::OpenMetrics } else { Format::Classic }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes everything.
pub(super) fn write(figures: &Figures<'_>, format: Format) -> String {
    let families = METRICS.iter().map(|metric| {
        let mut samples = Samples::default();
        (metric.collect)(figures, &mut samples);
        Family { metric, samples: samples.0 }
    });
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition { families: families.collect(), format }));
    let mut out = String::with_capacity(16 * 1024);
    let written = match format {
        Format::Classic => text::encode_registry(&mut out, &registry),
        Format::OpenMetrics => text::encode(&mut out, &registry),
    };
    if let Err(fmt::Error) = written {
        // Writing into memory has no way to fail.
        log::error!("the metrics could not be written");
    }
    out
}

/// A metric with its samples.
#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Exposition {
    families: Vec<Family>,
    format: Format,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { metric, samples } in self.families.iter().filter(|family| !family.samples.is_empty()) {
            let (name, unit) = self.name_of(metric);
            let mut encoder =
                encoder.encode_descriptor(name, metric.about, unit.as_ref(), self.type_of(metric.kind))?;
            for Sample { labels, value } in samples {
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
                if labels.is_empty() {
                    self.write_value(&mut encoder, metric.kind, value)?;
                } else if metric.kind == Kind::Info && self.format == Format::OpenMetrics {
                    encoder.encode_info(&labels)?;
                } else {
                    self.write_value(&mut encoder.encode_family(&labels)?, metric.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Exposition {
    /// What the encoder is to call a family, and the unit that it puts behind that. In OpenMetrics the suffix of a kind is no part of
    /// the name.
    fn name_of(&self, metric: &Metric) -> (&'static str, Option<registry::Unit>) {
        if self.format == Format::Classic {
            return (metric.name, None);
        }
        let suffix = match metric.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let name = metric.name.strip_suffix(suffix).unwrap_or(metric.name);
        let name = metric.unit.and_then(|unit| name.strip_suffix(unit.suffix())).unwrap_or(name);
        let unit = metric.unit.map(|unit| match unit {
            Unit::Seconds => registry::Unit::Seconds,
            Unit::Bytes => registry::Unit::Bytes,
        });
        (name, unit)
    }

    fn type_of(&self, kind: Kind) -> MetricType {
        match (kind, self.format) {
            (Kind::Counter, _) => MetricType::Counter,
            (Kind::Histogram, _) => MetricType::Histogram,
            (Kind::Info, Format::OpenMetrics) => MetricType::Info,
            (Kind::Gauge, _) | (Kind::Info, Format::Classic) => MetricType::Gauge,
        }
    }

    fn write_value(&self, encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
        let is_counter = kind == Kind::Counter && self.format == Format::OpenMetrics;
        match value {
            Value::Count(count) if is_counter => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
            Value::Number(number) if is_counter => encoder.encode_counter::<NoLabelSet, _, f64>(number, None),
            Value::Count(count) => encoder.encode_gauge(count),
            Value::Number(number) => encoder.encode_gauge(number),
            Value::Distribution(distribution) => {
                let Distribution { counts, sum_seconds } = **distribution;
                #[allow(clippy::cast_precision_loss, reason = "a minute in microseconds is far below 2^53")]
                let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                encoder.encode_histogram::<NoLabelSet>(sum_seconds, distribution.total(), &buckets, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_prefer_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [prometheus, "application/openmetrics-text", "text/plain, Application/OpenMetrics-Text"] {
            assert_eq!(Format::for_client(Some(accept)), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "",
            "application/openmetrics-text;q=0.2,text/plain",
        ] {
            assert_eq!(Format::for_client(Some(accept)), Format::Classic, "{accept}");
        }
        assert_eq!(Format::for_client(None), Format::Classic);
    }

    fn written(format: Format, families: Vec<Family>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition { families, format }));
        let mut out = String::new();
        text::encode_registry(&mut out, &registry).unwrap();
        out
    }

    fn family(name: &str, value: Value) -> Vec<Family> {
        let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
        let labels = metric.labels.iter().map(|label| format!("{label}\\ \"1\"\n")).collect();
        vec![Family { metric, samples: vec![Sample { labels, value }] }]
    }

    #[track_caller]
    fn check(name: &str, value: fn() -> Value, classic: &str, open_metrics: &str) {
        for (format, expected) in [(Format::Classic, classic), (Format::OpenMetrics, open_metrics)] {
            let written = written(format, family(name, value()));
            let lines: Vec<_> = written.lines().filter(|line| !line.starts_with("# HELP")).collect();
            assert_eq!(lines.join("\n"), expected, "{format:?}");
        }
    }

    #[test]
    fn a_counter_has_its_suffix_where_the_format_wants_it() {
        check(
            "process_cpu_seconds_total",
            || Value::Number(1.5),
            "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.5",
            "# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\nprocess_cpu_seconds_total 1.5",
        );
        check(
            "mcpgate_calls_total",
            || Value::Count(7),
            "# TYPE mcpgate_calls_total counter\nmcpgate_calls_total 7",
            "# TYPE mcpgate_calls counter\nmcpgate_calls_total 7",
        );
    }

    #[test]
    fn values_of_labels_are_quoted() {
        check(
            "mcpgate_build_info",
            || Value::Count(1),
            "# TYPE mcpgate_build_info gauge\nmcpgate_build_info{version=\"version\\\\ \\\"1\\\"\\n\"} 1",
            "# TYPE mcpgate_build info\nmcpgate_build_info{version=\"version\\\\ \\\"1\\\"\\n\"} 1",
        );
    }

    #[test]
    fn a_histogram_counts_all_up_to_each_bound() {
        let mut counts = [0; 17];
        (counts[0], counts[2], counts[16]) = (3, 2, 1);
        let value = Value::Distribution(Box::new(Distribution { counts, sum_seconds: 70.25 }));
        let written = written(Format::Classic, family("mcpgate_queue_wait_seconds", value));
        for line in [
            "mcpgate_queue_wait_seconds_sum{server=\"server\\\\ \\\"1\\\"\\n\"} 70.25",
            "mcpgate_queue_wait_seconds_count{server=\"server\\\\ \\\"1\\\"\\n\"} 6",
            "mcpgate_queue_wait_seconds_bucket{le=\"0.0005\",server=\"server\\\\ \\\"1\\\"\\n\"} 3",
            "mcpgate_queue_wait_seconds_bucket{le=\"0.001\",server=\"server\\\\ \\\"1\\\"\\n\"} 3",
            "mcpgate_queue_wait_seconds_bucket{le=\"0.0025\",server=\"server\\\\ \\\"1\\\"\\n\"} 5",
            "mcpgate_queue_wait_seconds_bucket{le=\"60.0\",server=\"server\\\\ \\\"1\\\"\\n\"} 5",
            "mcpgate_queue_wait_seconds_bucket{le=\"+Inf\",server=\"server\\\\ \\\"1\\\"\\n\"} 6",
        ] {
            assert!(written.lines().any(|it| it == line), "{line} in\n{written}");
        }
    }
}
