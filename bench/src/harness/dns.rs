//! A DNS server for tests: says what it is told to say, and can fail in the ways that servers do. UDP only.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, SRV},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::locked;

/// How a name is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Addresses of both families, with a time to live in seconds. A question for the other family gets an empty answer.
    Addresses(Vec<IpAddr>, u32),
    /// Services, with a time to live in seconds.
    Services(Vec<Service>, u32),
    /// The name does not exist. This is also the answer for names that were never set.
    NoSuchName,
    /// SERVFAIL: the server cannot tell.
    Failure,
    /// No answer at all.
    Silence,
}

/// One SRV record.
#[derive(Debug, Clone)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

/// The server, on a UDP port of 127.0.0.1.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Zone {
    replies: HashMap<String, Reply>,
    /// Overrides every name.
    outage: Option<Reply>,
    questions: HashMap<String, usize>,
}

impl DnsServer {
    /// Starts with no names.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.context("cannot bind a UDP port")?;
        let address = socket.local_addr().context("a socket without an address")?;
        let shared = Arc::new(Mutex::new(Zone::default()));
        let task = tokio::spawn(serve(socket, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the answer for a name, from now on.
    pub fn set(&self, name: &str, reply: Reply) {
        locked(&self.shared).replies.insert(plain(name), reply);
    }

    /// Sets the addresses of a name.
    ///
    /// # Panics
    /// When an address is none.
    pub fn set_addresses(&self, name: &str, addresses: &[&str], ttl_seconds: u32) {
        let addresses = addresses.iter().map(|text| text.parse().expect("the test gives addresses")).collect();
        self.set(name, Reply::Addresses(addresses, ttl_seconds));
    }

    /// Answers every question like this, whatever was set; `None` ends it.
    pub fn set_outage(&self, reply: Option<Reply>) {
        locked(&self.shared).outage = reply;
    }

    /// How often a name was asked for, all record types together.
    #[must_use]
    pub fn questions(&self, name: &str) -> usize {
        locked(&self.shared).questions.get(&plain(name)).copied().unwrap_or(0)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    loop {
        // An error here is about an earlier answer that nobody took.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = answer(&buffer[..length], &zone) {
            _ = socket.send_to(&answer, client).await;
        }
    }
}

/// The answer's bytes; `None` to be silent, also about what is no question.
fn answer(question: &[u8], zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = plain(&query.name().to_string());
    let reply = {
        let mut zone = locked(zone);
        *zone.questions.entry(name.clone()).or_default() += 1;
        zone.outage.clone().or_else(|| zone.replies.get(&name).cloned()).unwrap_or(Reply::NoSuchName)
    };
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let (records, ttl) = match reply {
        Reply::Silence => return None,
        Reply::NoSuchName => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            (Vec::new(), 0)
        }
        Reply::Failure => {
            answer.metadata.response_code = ResponseCode::ServFail;
            (Vec::new(), 0)
        }
        Reply::Addresses(addresses, ttl) => {
            let matching = addresses.into_iter().filter_map(|address| match (address, query.query_type()) {
                (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(v4))),
                (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(v6))),
                _ => None,
            });
            (matching.collect(), ttl)
        }
        Reply::Services(services, ttl) if query.query_type() == RecordType::SRV => {
            let records = services.into_iter().filter_map(|service| {
                let target = Name::from_ascii(service.target).ok()?;
                Some(RData::SRV(SRV::new(service.priority, service.weight, service.port, target)))
            });
            (records.collect(), ttl)
        }
        Reply::Services(..) => (Vec::new(), 0),
    };
    for data in records {
        answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
    }
    answer.to_vec().ok()
}

/// Names without case and without the final dot.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use std::time::Duration;
    use tokio::time::timeout;

    async fn ask(server: &DnsServer, name: &str, kind: RecordType) -> Option<Message> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), server.address()).await.unwrap();
        let mut buffer = [0; 4096];
        let read = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await.ok()?.unwrap();
        Some(Message::from_vec(&buffer[..read]).unwrap())
    }

    #[tokio::test]
    async fn it_answers_by_name_and_type() {
        let server = DnsServer::start().await.unwrap();
        server.set_addresses("n1.example.test", &["127.0.0.1", "127.0.0.2", "::1"], 7);
        let answer = ask(&server, "N1.example.test.", RecordType::A).await.unwrap();
        assert_eq!(answer.answers.len(), 2);
        assert_eq!(answer.answers[0].ttl, 7);
        assert_eq!(ask(&server, "n1.example.test.", RecordType::AAAA).await.unwrap().answers.len(), 1);
        let service = Service { priority: 0, weight: 10, port: 9001, target: "n1.example.test.".into() };
        server.set("_im._tcp.example.test", Reply::Services(vec![service], 30));
        assert_eq!(ask(&server, "_im._tcp.example.test.", RecordType::SRV).await.unwrap().answers.len(), 1);
        assert_eq!(server.questions("n1.example.test"), 2);
    }

    #[tokio::test]
    async fn it_fails_in_the_ways_it_is_told_to() {
        let server = DnsServer::start().await.unwrap();
        let code = async |name| ask(&server, name, RecordType::A).await.map(|answer| answer.metadata.response_code);
        assert_eq!(code("unknown.test.").await, Some(ResponseCode::NXDomain));
        server.set_addresses("a.test", &["127.0.0.1"], 1);
        server.set_outage(Some(Reply::Failure));
        assert_eq!(code("a.test.").await, Some(ResponseCode::ServFail));
        server.set_outage(Some(Reply::Silence));
        assert_eq!(code("a.test.").await, None);
        server.set_outage(None);
        assert_eq!(code("a.test.").await, Some(ResponseCode::NoError));
    }
}
