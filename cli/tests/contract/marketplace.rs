//! An HTTPS server with canned answers, and the program run against it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, header};
use bytes::Bytes;
use serde_json::{Value, json};
use surplus_https::{Clock, Server, ServerIdentity};
use surplus_pki::{Authority, KeyPair};
use tokio::sync::oneshot;

/// What is answered: status, headers, body.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method, path and query.
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Bytes,
}

/// Documents, one a request; the last stands for all further ones.
pub(crate) fn answers<const N: usize>(documents: [Value; N]) -> Vec<Answer> {
    documents
        .into_iter()
        .map(|document| {
            let refused = document["status"]
                .as_u64()
                .filter(|_| document["type"].is_string());
            let (status, media) = match refused {
                Some(status) => (u16::try_from(status).unwrap(), "application/problem+json"),
                None => (200, "application/json"),
            };
            Answer {
                status,
                headers: vec![("content-type", media.into())],
                body: document.to_string().into_bytes(),
            }
        })
        .collect()
}

pub(crate) fn problem(status: u16, name: &str, title: &str) -> Value {
    json!({
        "type": format!("urn:surplus:problem:{name}"), "title": title, "status": status,
        "detail": "", "next": "",
    })
}

pub(crate) fn console(offset: u64, ended: bool, body: &[u8]) -> Answer {
    let mut headers = vec![("surplus-console-offset", offset.to_string())];
    if ended {
        headers.push(("surplus-console-ended", "true".into()));
    }
    Answer {
        status: 200,
        headers,
        body: body.to_vec(),
    }
}

#[derive(Default)]
struct Script {
    answers: HashMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
}

/// The server, until it is dropped.
pub(crate) struct Marketplace {
    script: Arc<Mutex<Script>>,
    url: String,
    ca_pem: String,
    ca_pin: String,
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Marketplace {
    pub(crate) fn start<'a>(script: impl IntoIterator<Item = (&'a str, Vec<Answer>)>) -> Self {
        let answers = script
            .into_iter()
            .map(|(line, answers)| (line.to_owned(), answers))
            .collect();
        let script = Arc::new(Mutex::new(Script {
            answers,
            asked: Vec::new(),
        }));
        let now = jiff::Timestamp::now();
        let authority = Authority::create(now).unwrap();
        let key = KeyPair::generate().unwrap();
        let shown = authority
            .issue_server(&["127.0.0.1".into()], &key, now)
            .unwrap();
        let identity = ServerIdentity::new(&key, &shown, authority.certificate()).unwrap();
        let server = Server::new(
            &identity,
            &[authority.certificate().clone()],
            Clock::system(),
        )
        .unwrap();
        let router = Router::new().fallback(answer).with_state(script.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                server
                    .serve(listener, router, async { drop(stopped.await) })
                    .await;
            });
        });
        let dir = tempfile::tempdir().unwrap();
        let ca_pem = authority.certificate().to_pem();
        std::fs::write(dir.path().join("ca.pem"), &ca_pem).unwrap();
        let digest = surplus_protocol::Digest::from_sha256(authority.certificate().fingerprint());
        Self {
            script,
            url,
            ca_pem,
            ca_pin: digest.to_string(),
            dir,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn on(&self, line: &str, answers: Vec<Answer>) {
        self.script
            .lock()
            .unwrap()
            .answers
            .insert(line.to_owned(), answers);
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(crate) fn ca_pin(&self) -> String {
        self.ca_pin.clone()
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    /// The program, with nothing of the caller's environment.
    pub(crate) fn command(&self, args: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_surplus"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .env("SURPLUS_URL", &self.url)
            .env("SURPLUS_CA", self.ca_file())
            .env("SURPLUS_TOKEN", "secret-key")
            .envs(env.iter().copied())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, &[])
    }

    pub(crate) fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Run {
        let output = self.command(args, env).output().unwrap();
        Run {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            raw: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Marketplace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) raw: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    /// The one document on standard output.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response<Body> {
    let line = format!(
        "{} {}",
        request.method(),
        request.uri().path_and_query().unwrap()
    );
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().to_owned());
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let mut script = script.lock().unwrap();
    script.asked.push(Asked {
        line: line.clone(),
        authorization,
        body,
    });
    let answer = match script.answers.get_mut(&line) {
        Some(queue) if queue.len() > 1 => queue.remove(0),
        Some(queue) => queue[0].clone(),
        None => answers([problem(
            404,
            "test",
            &format!("nothing is prepared for {line}"),
        )])
        .remove(0),
    };
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).unwrap()
}
