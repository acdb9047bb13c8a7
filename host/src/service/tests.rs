mod blocking;
mod components;
mod house;
mod instances;
mod links;
mod queue;
mod stress;
mod trouble;
