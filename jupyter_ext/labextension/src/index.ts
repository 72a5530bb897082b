/** The plugins of Hyper Kernel in JupyterLab; each stands alone and asks `ISandboxes` what it needs. */
import { commands } from './commands';
import { death } from './death/plugin';
import { logs } from './inside/logs';
import { terminal } from './inside/terminal';
import { launch } from './launch/plugin';
import { sandboxes } from './model/plugin';
import { panel } from './panel/plugin';
import { review } from './review/plugin';
import { running } from './running';
import { shield } from './shield/plugin';

export default [sandboxes, commands, launch, panel, running, shield, death, review, logs, terminal];
