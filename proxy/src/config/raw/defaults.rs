//! Every default of the configuration, in one place. docs/config.md repeats them, and a test compares.

use std::time::Duration;

use policies::RttEstimate;

use super::cluster::{
    CriterionName, OrderName, PolicyName, RawLimits, RawMaglev, RawPeakEwma, RawPrequal, RawRingHash, RawSlowStart,
    RawSpill, RttFrom, SpillBy,
};
use super::health::{
    RawGrpcProbe, RawGrpcQuestion, RawHttpProbe, RawHttpQuestion, RawImProbe, RawImQuestion, RawInitial, RawTcpProbe,
    RawTcpQuestion, RawWebsocketProbe, RawWebsocketQuestion,
};
use super::listener::{HttpVersion, TlsVersion};
use super::{
    LogFormat, OneOrMany, Placed, RawAdmin, RawCluster, RawDns, RawDrain, RawFailurePercentage, RawHealth,
    RawListenerTcp, RawLocality, RawLog, RawOutlier, RawP2c, RawProbeTiming, RawRetryBudget, RawRtt, RawStop,
    RawSuccessRate, RawTimeouts, RawUpstreamTcp, RawUserToken,
};
use crate::config::units::{Distance, Percent, Period, Rate, Size};

/// What `TcpOptions` of a cluster say about a backlog: nothing listens there, so it is the listeners' default.
pub const BACKLOG: u32 = 4096;

impl Default for RawAdmin {
    fn default() -> RawAdmin {
        let bind = vec!["127.0.0.1:9901".to_owned().into()];
        RawAdmin { bind, socket: None, token_file: None, hosts: vec![] }
    }
}

impl Default for RawLog {
    fn default() -> RawLog {
        RawLog { level: "info".to_owned().into(), format: LogFormat::Json, access: "stdout".to_owned().into() }
    }
}

impl Default for RawDns {
    fn default() -> RawDns {
        RawDns {
            resolvers: vec![],
            timeout: seconds(2),
            min_ttl: seconds(1),
            max_ttl: minutes(5),
            // goim refuses an update that has lost more than half of its nodes.
            max_loss: Percent(50).into(),
            believe_after: 3.into(),
        }
    }
}

impl Default for RawStop {
    fn default() -> RawStop {
        RawStop { grace: seconds(5), deadline: minutes(5) }
    }
}

impl Default for RawDrain {
    fn default() -> RawDrain {
        RawDrain { rate: Rate { per_second: 200.0 }.into(), close_wait: seconds(5) }
    }
}

impl Default for RawTimeouts {
    fn default() -> RawTimeouts {
        RawTimeouts {
            proxy_header: seconds(5),
            tls_handshake: seconds(10),
            request_head: seconds(10),
            keep_alive: seconds(75),
            // Phones that sleep send a heartbeat every few minutes: shorter limits would cut them.
            idle: minutes(15),
        }
    }
}

impl Default for RawListenerTcp {
    fn default() -> RawListenerTcp {
        RawListenerTcp { keepalive: minutes(5), user_timeout: seconds(60), backlog: i64::from(BACKLOG).into() }
    }
}

pub fn max_head() -> Placed<Size> {
    Size(32 * 1024).into()
}

pub fn min_tls_version() -> TlsVersion {
    TlsVersion::V1_2
}

impl Default for RawCluster {
    fn default() -> RawCluster {
        RawCluster {
            policy: PolicyName::P2c,
            request_policy: PolicyName::P2c,
            p2c: RawP2c::default(),
            peak_ewma: RawPeakEwma::default(),
            prequal: RawPrequal::default(),
            maglev: RawMaglev::default(),
            ring_hash: RawRingHash::default(),
            slow_start: RawSlowStart::default(),
            accept_rate: None,
            limits: RawLimits::default(),
            priority_limits: vec![],
            spill: RawSpill::default(),
            hash_on: vec!["address".to_owned().into()].into(),
            user_token: None,
            stickiness: None,
            steer: [CriterionName::Rules, CriterionName::Distance, CriterionName::Rtt].map(Placed::from).into(),
            distance_band: Distance { km: 500.0 }.into(),
            rtt: RawRtt::default(),
            // Envoy's defaults for spill-over and panic.
            overprovisioning: 1.4.into(),
            panic_threshold: Percent(50).into(),
            rules: vec![],
            map: Default::default(),
            map_order: OrderName::Steered,
            map_fallback: OneOrMany::default(),
            localities: Default::default(),
            http: HttpVersion::V1,
            tls: None,
            connect_timeout: seconds(2),
            // nginx's `proxy_read_timeout`.
            response_timeout: seconds(60),
            health: RawHealth::default().into(),
            agent_check: None,
            cut_on_down: off(),
            outlier: RawOutlier::default(),
            retry_budget: RawRetryBudget::default(),
            tcp: RawUpstreamTcp::default(),
        }
    }
}

impl Default for RawP2c {
    fn default() -> RawP2c {
        RawP2c { choices: 2.into() }
    }
}

/// Linkerd's figures for `decay` and `default-latency`, and its load-biaser's for `failure-penalty`.
impl Default for RawPeakEwma {
    fn default() -> RawPeakEwma {
        RawPeakEwma {
            choices: 2.into(),
            decay: seconds(10),
            default_latency: milliseconds(30),
            failure_penalty: seconds(5),
        }
    }
}

/// The pool of 16 probes and the quantile of 2^-0.25 of the Prequal paper (NSDI 2024). Its probes are a second old at most;
/// ours come with health probes, hence the longer age.
impl Default for RawPrequal {
    fn default() -> RawPrequal {
        let RawPeakEwma { decay, default_latency, failure_penalty, .. } = RawPeakEwma::default();
        RawPrequal {
            choices: 16.into(),
            hot_above: Percent(84).into(),
            report_age: seconds(5),
            decay,
            default_latency,
            failure_penalty,
        }
    }
}

/// Envoy's table size. Its bounded load is off by default; the factor is the one that its documentation and HAProxy's start
/// with.
impl Default for RawMaglev {
    fn default() -> RawMaglev {
        RawMaglev { table_size: 65_537.into(), balance_factor: 1.25.into() }
    }
}

/// Envoy's and gRPC's smallest ring.
impl Default for RawRingHash {
    fn default() -> RawRingHash {
        RawRingHash { min_size: 1024.into(), max_size: 65_536.into(), balance_factor: 1.25.into() }
    }
}

/// Envoy's figures for `aggression` and `least`; like there, there is no slow start unless a window is given.
impl Default for RawSlowStart {
    fn default() -> RawSlowStart {
        RawSlowStart { window: seconds(0), aggression: 1.0.into(), least: Percent(10).into() }
    }
}

impl Default for RawSpill {
    fn default() -> RawSpill {
        RawSpill { by: SpillBy::Weight, above: None, below: None, slope: Percent(10).into() }
    }
}

impl Default for RawUserToken {
    fn default() -> RawUserToken {
        let from = vec!["authorization".to_owned().into()];
        RawUserToken { from: from.into(), claim: "sub".to_owned().into(), verify: None, decode_only: off() }
    }
}

pub fn stickiness_ttl() -> Placed<Period> {
    minutes(5)
}

pub fn stickiness_max_entries() -> Placed<i64> {
    100_000.into()
}

impl Default for RawRtt {
    fn default() -> RawRtt {
        let bands = [10, 35, 80].map(milliseconds).to_vec();
        RawRtt {
            from: RttFrom::Probe,
            bands: bands.into(),
            window: Period(RttEstimate::WINDOW).into(),
            hysteresis: Percent(10).into(),
            hysteresis_floor: milliseconds(2),
            dwell: 6.into(),
            max_age: seconds(30),
        }
    }
}

impl Default for RawLocality {
    fn default() -> RawLocality {
        RawLocality {
            provider: None,
            location: None,
            priority: 0.into(),
            share: Percent(100).into(),
            capacity: None,
            endpoints: vec![],
        }
    }
}

pub fn weight() -> Placed<i64> {
    1.into()
}

/// HAProxy's figures for `inter` (2 s), `rise` (2) and `fall` (3); the others are ours.
impl Default for RawProbeTiming {
    fn default() -> RawProbeTiming {
        RawProbeTiming {
            interval: seconds(2),
            fast_interval: milliseconds(500),
            timeout: seconds(1),
            jitter: Percent(20).into(),
            rise: 2.into(),
            fall: 3.into(),
            initial: RawInitial::Up.into(),
        }
    }
}

impl Default for RawTcpProbe {
    fn default() -> RawTcpProbe {
        RawTcpProbe::new(RawTcpQuestion {}, RawProbeTiming::default())
    }
}

impl Default for RawHttpProbe {
    fn default() -> RawHttpProbe {
        let question = RawHttpQuestion {
            path: "/healthz".to_owned().into(),
            host: None,
            expect: vec!["200-299".to_owned().into()].into(),
            // Envoy's.
            degraded_header: "x-envoy-degraded".to_owned().into(),
            load_header: "x-requests-in-flight".to_owned().into(),
        };
        RawHttpProbe::new(question, RawProbeTiming::default())
    }
}

impl Default for RawWebsocketProbe {
    fn default() -> RawWebsocketProbe {
        let question = RawWebsocketQuestion { path: "/".to_owned().into(), host: None, protocol: None };
        RawWebsocketProbe::new(question, RawProbeTiming::default())
    }
}

impl Default for RawGrpcProbe {
    fn default() -> RawGrpcProbe {
        let question = RawGrpcQuestion { service: nothing(), authority: None };
        RawGrpcProbe::new(question, RawProbeTiming::default())
    }
}

impl Default for RawImProbe {
    fn default() -> RawImProbe {
        let question = RawImQuestion {
            path: "/ws".to_owned().into(),
            host: None,
            token_file: None,
            device: "warbler-probe".to_owned().into(),
        };
        RawImProbe::new(question, RawProbeTiming::default())
    }
}

/// HAProxy's `agent-inter` follows its `inter`.
pub fn agent_interval() -> Placed<Period> {
    seconds(2)
}

pub fn agent_timeout() -> Placed<Period> {
    seconds(1)
}

pub fn nothing() -> Placed<String> {
    String::new().into()
}

/// Envoy's figures, and ours where it has none: `jitter`, `early-close`, and `silence`, which is off because a client may
/// send for long without being owed a word.
impl Default for RawOutlier {
    fn default() -> RawOutlier {
        RawOutlier {
            off: off(),
            consecutive: 5.into(),
            interval: seconds(10),
            base_ejection: seconds(30),
            max_ejection: seconds(300),
            max_ejected: Percent(10).into(),
            jitter: Percent(20).into(),
            connect_failure: on(),
            tls_failure: on(),
            refused_upgrade: on(),
            early_close: seconds(2),
            silence: seconds(0),
            gateway_errors: on(),
            server_errors: off(),
            success_rate: RawSuccessRate::default(),
            failure_percentage: RawFailurePercentage::default(),
        }
    }
}

impl Default for RawSuccessRate {
    fn default() -> RawSuccessRate {
        RawSuccessRate { enforce: on(), hosts: 5.into(), volume: 100.into(), deviations: 1.9.into() }
    }
}

impl Default for RawFailurePercentage {
    fn default() -> RawFailurePercentage {
        RawFailurePercentage { enforce: off(), threshold: Percent(85).into(), hosts: 5.into(), volume: 50.into() }
    }
}

/// Envoy's.
impl Default for RawRetryBudget {
    fn default() -> RawRetryBudget {
        RawRetryBudget { share: Percent(20).into(), min: 3.into() }
    }
}

impl Default for RawUpstreamTcp {
    fn default() -> RawUpstreamTcp {
        RawUpstreamTcp { keepalive: minutes(5), user_timeout: seconds(60) }
    }
}

pub fn on() -> Placed<bool> {
    true.into()
}

pub fn off() -> Placed<bool> {
    false.into()
}

fn minutes(count: u64) -> Placed<Period> {
    seconds(60 * count)
}

fn seconds(count: u64) -> Placed<Period> {
    Period(Duration::from_secs(count)).into()
}

fn milliseconds(count: u64) -> Placed<Period> {
    Period(Duration::from_millis(count)).into()
}
