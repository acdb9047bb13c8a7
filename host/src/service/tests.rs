mod blocking;
mod components;
mod house;
mod instances;
mod links;
mod stress;
mod trouble;
