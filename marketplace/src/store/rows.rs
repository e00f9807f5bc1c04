//! Rows as records.

use sqlx::sqlite::SqliteRow;
use surplus_market::lease::Lease;
use surplus_market::records::{
    AdmissionRuleRecord, HostRecord, ImageRecord, KeyRecord, LeaseRecord, TokenRecord,
};
use surplus_market::store::StoreError;
use surplus_protocol::Money;
use surplus_protocol::ids::Epoch;
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::UsageRecord;

use super::columns::Columns;

pub(super) fn token(row: &SqliteRow) -> Result<TokenRecord, StoreError> {
    let row = Columns(row);
    Ok(TokenRecord {
        id: row.parse("id")?,
        name: row.text("name")?,
        hash: row.parse("hash")?,
        uses: row.number_opt("uses")?,
        used: row.number("used")?,
        expires_at: row.time_opt("expires_at")?,
        networks: row.json("networks")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) fn admission_rule(row: &SqliteRow) -> Result<AdmissionRuleRecord, StoreError> {
    let row = Columns(row);
    Ok(AdmissionRuleRecord {
        id: row.parse("id")?,
        selectors: row.json("selectors")?,
        uses: row.number_opt("uses")?,
        used: row.number("used")?,
        expires_at: row.time_opt("expires_at")?,
        created_by: row.text("created_by")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) fn key(row: &SqliteRow) -> Result<KeyRecord, StoreError> {
    let row = Columns(row);
    Ok(KeyRecord {
        id: row.parse("id")?,
        name: row.text("name")?,
        role: row.word("role")?,
        hash: row.parse("hash")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) fn host(row: &SqliteRow) -> Result<HostRecord, StoreError> {
    let row = Columns(row);
    Ok(HostRecord {
        id: row.parse("id")?,
        state: row.word("state")?,
        detail: row.text("detail")?,
        site: row.text("site")?,
        rack: row.text("rack")?,
        key_storage: row.text("key_storage")?,
        key: row.parse("key")?,
        next_key: row.parse_opt("next_key")?,
        identity: row.json("identity")?,
        cpu_model: row.text("cpu_model")?,
        memory_bytes: row.number("memory_bytes")?,
        address: row.parse_opt("address")?,
        admitted_by: row.json_opt("admitted_by")?,
        enrolled_at: row.time("enrolled_at")?,
        certificate_expires_at: row.time("certificate_expires_at")?,
        last_seen_at: row.time_opt("last_seen_at")?,
        boot: row.parse_opt("boot")?,
        former_boots: row.json("former_boots")?,
        inventory: row.json_opt("inventory")?,
        capacity: row.json_opt("capacity")?,
        generation: row.number("generation")?,
        replaced_by: row.parse_opt("replaced_by")?,
    })
}

pub(super) fn lease(row: &SqliteRow) -> Result<LeaseRecord, StoreError> {
    let row = Columns(row);
    Ok(LeaseRecord {
        id: row.parse("id")?,
        quote: row.parse("quote")?,
        owner: row.parse("owner")?,
        host: row.parse("host")?,
        site: row.text("site")?,
        wanted_site: row.text_opt("wanted_site")?,
        resources: Resources {
            vcpus: row.number("vcpus")?,
            memory_bytes: row.number("memory_bytes")?,
            disk_bytes: row.number("disk_bytes")?,
            addresses: row.number("own_addresses")?,
        },
        seconds: row.number("seconds")?,
        on_lost_link: row.json("on_lost_link")?,
        price: Money(row.integer("price")?),
        currency: row.text("currency")?,
        price_book: row.number("price_book")?,
        quote_expires_at: row.time("quote_expires_at")?,
        created_at: row.time("created_at")?,
        ends_at: row.time("ends_at")?,
        guest: row.json_opt("guest")?,
        life: Lease {
            state: row.word("state")?,
            epoch: row.number("epoch")?,
            boot: row.parse_opt("boot")?,
            former: row.json("former")?,
            lost: row.json_opt("lost")?,
            stop: row.word_opt("stop")?,
            reclaim_at: row.time_opt("reclaim_at")?,
            started_at: row.time_opt("started_at")?,
            ended_at: row.time_opt("ended_at")?,
            end_reason: row.word_opt("end_reason")?,
        },
        phase: row.word_opt("phase")?,
        detail: row.text("detail")?,
        addresses: row.json("addresses")?,
        forwards: row.json("forwards")?,
        disk: row.json_opt("disk_end")?,
    })
}

pub(super) fn epoch(row: &SqliteRow) -> Result<Epoch, StoreError> {
    Columns(row).number("epoch")
}

pub(super) fn usage(row: &SqliteRow) -> Result<UsageRecord, StoreError> {
    let row = Columns(row);
    Ok(UsageRecord {
        lease: row.parse("lease")?,
        epoch: row.number("epoch")?,
        seq: row.number("seq")?,
        measured_at: row.time("measured_at")?,
        running_millis: row.number("running_millis")?,
        cpu_millis: row.number("cpu_millis")?,
        rx_bytes: row.number("rx_bytes")?,
        tx_bytes: row.number("tx_bytes")?,
    })
}

pub(super) fn image(row: &SqliteRow) -> Result<ImageRecord, StoreError> {
    let row = Columns(row);
    Ok(ImageRecord {
        digest: row.parse("digest")?,
        name: row.text("name")?,
        format: row.word("format")?,
        size_bytes: row.number("size_bytes")?,
        virtual_bytes: row.number("virtual_bytes")?,
        owner: row.parse("owner")?,
        public: row.integer("public")? != 0,
        added_at: row.time("added_at")?,
    })
}
