"""Published variants as values for the seams of `fewstep.maml.Learner` (floor 2). One idea, one file."""

from fewstep.variants.averaging import averaged as averaged
from fewstep.variants.averaging import evaluated as evaluated
from fewstep.variants.bayes_head import bayes_network as bayes_network
from fewstep.variants.bayes_head import bayes_step as bayes_step
from fewstep.variants.bayes_head import body_and_bayes_step as body_and_bayes_step
from fewstep.variants.bayes_head import class_log_probabilities as class_log_probabilities
from fewstep.variants.bayes_head import move_body as move_body
from fewstep.variants.bayes_head import negative_log_likelihood as negative_log_likelihood
from fewstep.variants.bayes_head import remember_prior as remember_prior
from fewstep.variants.bayes_prior import empirical_prior as empirical_prior
from fewstep.variants.bayes_prior import shrunk as shrunk
from fewstep.variants.leave_one_out import bayes_leave_one_out as bayes_leave_one_out
from fewstep.variants.leave_one_out import leave_one_out as leave_one_out
from fewstep.variants.leave_one_out import safe_steps as safe_steps
from fewstep.variants.lslr import layer_step_rates as layer_step_rates
from fewstep.variants.lslr import lslr as lslr
from fewstep.variants.meta_curvature import curvature as curvature
from fewstep.variants.meta_curvature import meta_curvature as meta_curvature
from fewstep.variants.meta_sgd import log_rates as log_rates
from fewstep.variants.meta_sgd import meta_sgd as meta_sgd
from fewstep.variants.multi_step_loss import multi_step_loss as multi_step_loss
