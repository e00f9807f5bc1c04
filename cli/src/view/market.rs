//! What can be rented: offers, prices, images, quotes.

use surplus_protocol::api::{Image, Offer, PriceBook, Quote};

use super::hosts::{rate, resources};
use super::{View, short_ids};
use crate::units::{show_money, show_rate, show_seconds, show_size};

impl View {
    pub(crate) fn offers(&self, offers: &[Offer]) -> String {
        if offers.is_empty() {
            return "nothing is offered now: no host has spare capacity\n".to_owned();
        }
        let ids = short_ids(offers.iter().map(|offer| offer.host));
        let headings = [
            "HOST",
            "SITE",
            ">VCPUS",
            ">MEMORY",
            ">DISK",
            ">ADDRESSES",
            "CPU",
            "RUNS BY",
            "NETWORK",
            ">ALL OF IT, AN HOUR",
        ];
        self.table(
            &headings,
            offers.iter().zip(ids).map(|(offer, id)| {
                vec![
                    id,
                    offer.site.clone(),
                    offer.free.vcpus.to_string(),
                    show_size(offer.free.memory_bytes),
                    show_size(offer.free.disk_bytes),
                    offer.free.addresses.to_string(),
                    offer.cpu_model.clone(),
                    offer.accelerator.clone(),
                    rate(offer.guest_mbits),
                    show_money(offer.price_per_hour, &offer.currency),
                ]
            }),
        )
    }

    pub(crate) fn prices(&self, book: &PriceBook) -> String {
        let rows = [
            ("vCPU", book.vcpu_hour, "an hour"),
            ("memory", book.memory_gib_hour, "a GiB and hour"),
            ("disk", book.disk_gb_month, "a GB and month of 30 days"),
            ("address", book.address_hour, "an own address and hour"),
            ("traffic in", book.traffic_in_gb, "a GB"),
            ("traffic out", book.traffic_out_gb, "a GB"),
        ];
        let table = self.table(
            &["ITEM", &format!(">{}", book.currency), "FOR"],
            rows.map(|(item, rate, unit)| vec![item.to_owned(), show_rate(rate), unit.to_owned()]),
        );
        format!(
            "{table}price book {}; time in which a guest does not run is not billed\n",
            book.version
        )
    }

    pub(crate) fn images(&self, images: &[Image]) -> String {
        if images.is_empty() {
            return "no images yet: `surplus image add FILE --name NAME` brings one\n".to_owned();
        }
        let digests = short_ids(images.iter().map(|image| image.digest.to_hex()));
        self.table(
            &["NAME", "DIGEST", "FORMAT", ">FILE", ">DISK", "ADDED"],
            images.iter().zip(digests).map(|(image, digest)| {
                vec![
                    image.name.clone(),
                    format!("sha256:{digest}"),
                    image.format.to_string(),
                    show_size(image.size_bytes),
                    show_size(image.virtual_bytes),
                    self.time(image.added_at),
                ]
            }),
        )
    }

    pub(crate) fn image(&self, image: &Image) -> String {
        self.sheet([
            ("name", image.name.clone()),
            ("digest", image.digest.to_string()),
            ("format", image.format.to_string()),
            ("file", show_size(image.size_bytes)),
            ("disk", show_size(image.virtual_bytes)),
        ])
    }

    /// The quote in one line.
    pub(crate) fn quote(&self, quote: &Quote) -> String {
        format!(
            "quote: {} for {} at {}, on host {}: {} and traffic",
            resources(&quote.resources),
            show_seconds(quote.seconds),
            quote.site,
            short_ids([quote.host]).concat(),
            show_money(quote.price, &quote.currency),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{image, offer, prices, quote, view};

    #[test]
    fn offers_show_the_price_with_its_currency() {
        insta::assert_snapshot!(view().offers(&[offer(0), offer(1)]));
    }

    #[test]
    fn prices_name_their_unit() {
        insta::assert_snapshot!(view().prices(&prices()));
    }

    #[test]
    fn images_and_quotes_read_well() {
        let text = format!(
            "{}\n{}\n{}\n",
            view().images(&[image()]),
            view().image(&image()),
            view().quote(&quote())
        );
        insta::assert_snapshot!(text);
    }
}
