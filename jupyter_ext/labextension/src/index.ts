/** The plugins of Hyper Kernel in JupyterLab; each stands alone and asks `ISandboxes` what it needs. */
import { commands } from './commands';
import { sandboxes } from './model/plugin';
import { panel } from './panel/plugin';
import { running } from './running';

export default [sandboxes, commands, panel, running];
