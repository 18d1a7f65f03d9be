"""Runs studies: Optuna proposes settings, each is trained at several seeds, and every result is written exactly once.

command: `losslab sweep`: check everything, print the number of trainings and the disk space, run, and show the results
confirm: `losslab confirm`: train the best settings again on fresh seeds, and read the test images once
identity: study.json; whether code and images are still those that the study began with
study: the loop: ask Optuna for trials, train them, tell the results
trials: what the trials say so far: what was queued, the best setting, and which trainings may still matter
speed: one by one, as populations or by several processes: decided by measuring a few steps
training: one setting at one seed: a fit whose last epoch becomes a result
populations: group compatible trainings, and train each group as one
population: many classifiers as one vectorised model
population_data: the batches of a population: each member's own images, gathered, scaled and augmented in one go
fusion: the networks of a population as one network, module by module
forward_graph: the operations of a network's forward, if they are all that it does
stacked_optimizer: one optimiser for the parameters of all members, with the values of each in each step
stack: modules computed as one: their tensors stacked, and a module called with others than its own
eligibility: which trainings may form a population, and why the others are trained alone
ownership: which process runs a trial, and whether that process is alive
storage: where Optuna keeps a study: a journal file, or a database that may be away for a while
workers: several processes on one study, and their parent
display: the progress bar of a study
"""

from losslab.sweep.identity import MAY_CHANGE
from losslab.sweep.population import Population
from losslab.sweep.population_data import PopulationData
